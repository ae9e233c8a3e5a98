"""The order of an inner loop's data, and learning-rate schedules (those of transformers' trainer), step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from seal_lightning.core import AdaptationPlan, OptimizerSpec
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.packed import TokenizedSequence


def anchor_batches(
    anchors: Sequence[TokenizedSequence], plan: AdaptationPlan, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """Return an iterator over the anchor texts of each step of a plan; empty lists where it has no anchor."""
    if plan.anchor is None or not anchors:
        return iter([[] for _ in range(plan.num_steps)])
    size = plan.anchor.batch_size or len(anchors)
    parts = [range(start, min(start + size, len(anchors))) for start in range(0, len(anchors), size)]
    return _in_turn(anchors, parts, plan.num_steps, derive_seed(seed, "anchor"))


def batches(
    sequences: Sequence[TokenizedSequence], plan: AdaptationPlan, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """Return an iterator over the plan's ``num_steps`` batches; every epoch has all sequences in an order of its own."""
    num, size = len(sequences), plan.optimizer.batch_size
    if plan.steps_per_epoch is None:
        parts = [range(start, min(start + size, num)) for start in range(0, num, size)]
    else:
        steps = min(plan.steps_per_epoch, num)  # each has a sequence
        parts = [range(num * step // steps, num * (step + 1) // steps) for step in range(steps)]
    return _in_turn(sequences, parts, plan.num_steps, seed)


def _in_turn(
    sequences: Sequence[TokenizedSequence], parts: Sequence[range], num_steps: int, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """Yield the parts of each epoch's random order, until ``num_steps`` were yielded."""
    step = epoch = 0
    while step < num_steps:
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        order = torch.randperm(len(sequences), generator=generator).tolist()
        for part in parts:
            if step == num_steps:
                return
            yield [sequences[order[place]] for place in part]
            step += 1
        epoch += 1


def learning_rate_factor(spec: OptimizerSpec, step: int, num_steps: int) -> float:
    """Return the factor of the peak learning rate at ``step`` (from 0) of ``num_steps``; in [0, 1].

    A single step has no warm-up: transformers' factor for it is 0, and nothing would be learned.
    """
    warmup = spec.warmup_steps or math.ceil(spec.warmup_ratio * num_steps)
    if num_steps == 1:
        return 1.0
    if step < warmup:
        return step / warmup
    if spec.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, num_steps - warmup)
    if spec.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
