"""Inner loops: plans to adapted weights."""

from seal_lightning.adaptation.sequential import SequentialInnerLoop

__all__ = ["SequentialInnerLoop"]
