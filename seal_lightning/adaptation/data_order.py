"""In which order an inner loop sees its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from seal_lightning.packed import TokenizedSequence
from seal_lightning.seeds import derive_seed
from seal_lightning.types import AdaptationPlan, OptimizerSpec


def anchor_batches(
    anchors: Sequence[TokenizedSequence], plan: AdaptationPlan, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """The anchor texts of each of a plan's steps, in turn; empty ones where there is no anchor."""
    if plan.anchor is None or not anchors:
        return iter([[] for _ in range(plan.num_steps)])
    spec = replace(plan.optimizer, batch_size=plan.anchor.batch_size or len(anchors))
    return batches(anchors, spec, plan.num_steps, derive_seed(seed, "anchor"))


def batches(
    sequences: Sequence[TokenizedSequence], spec: OptimizerSpec, num_steps: int, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """``num_steps`` batches; every epoch goes through all sequences in an order of its own."""
    step = epoch = 0
    while step < num_steps:
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        order = torch.randperm(len(sequences), generator=generator).tolist()
        for start in range(0, len(order), spec.batch_size):
            if step == num_steps:
                return
            yield [sequences[i] for i in order[start : start + spec.batch_size]]
            step += 1
        epoch += 1
