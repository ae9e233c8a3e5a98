"""In which order an inner loop sees its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from seal_lightning.core import AdaptationPlan
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.packed import TokenizedSequence


def anchor_batches(
    anchors: Sequence[TokenizedSequence], plan: AdaptationPlan, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """The anchor texts of each of a plan's steps, in turn; empty ones where there is no anchor."""
    if plan.anchor is None or not anchors:
        return iter([[] for _ in range(plan.num_steps)])
    size = plan.anchor.batch_size or len(anchors)
    parts = [range(start, min(start + size, len(anchors))) for start in range(0, len(anchors), size)]
    return _in_turn(anchors, parts, plan.num_steps, derive_seed(seed, "anchor"))


def batches(
    sequences: Sequence[TokenizedSequence], plan: AdaptationPlan, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """The plan's ``num_steps`` batches; every epoch goes through all sequences in an order of its own."""
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
    """Epoch by epoch the parts of an order of its own, until there were ``num_steps``."""
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
