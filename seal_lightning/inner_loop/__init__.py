"""Inner loops: plans to adapted weights."""

from seal_lightning.inner_loop.batched import BatchedInnerLoop
from seal_lightning.inner_loop.full_finetuning import FullFinetuning

__all__ = ["BatchedInnerLoop", "FullFinetuning"]
