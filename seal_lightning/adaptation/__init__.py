"""Inner loops: plans to adapted weights."""

from seal_lightning.adaptation.batched import BatchedInnerLoop

__all__ = ["BatchedInnerLoop"]
