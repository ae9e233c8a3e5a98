"""In which order an inner loop sees its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from seal_lightning.packed import TokenizedSequence
from seal_lightning.seeds import derive_seed
from seal_lightning.types import OptimizerSpec


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
