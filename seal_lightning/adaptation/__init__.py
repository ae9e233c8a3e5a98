"""Inner loops: plans to adapted weights."""

from seal_lightning.adaptation.batched import BatchedInnerLoop
from seal_lightning.adaptation.full_finetuning import FullFinetuning

__all__ = ["BatchedInnerLoop", "FullFinetuning"]
