"""Engines, which generate texts and score log-probabilities, and the policy as a writer of self-edits."""

from seal_lightning.generation.transformers_engine import TransformersEngine
from seal_lightning.generation.vllm.engine import VllmEngine
from seal_lightning.generation.writers import FixedChoices, PolicyWriter

__all__ = ["FixedChoices", "PolicyWriter", "TransformersEngine", "VllmEngine"]
