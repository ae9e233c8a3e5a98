"""Engines, which ask a model for text and log-probabilities, and the policy as a writer of self-edits."""

from seal_lightning.generation.fixed_choices import FixedChoices
from seal_lightning.generation.policy_writer import PolicyWriter
from seal_lightning.generation.transformers_engine import TransformersEngine
from seal_lightning.generation.vllm.engine import VllmEngine

__all__ = ["FixedChoices", "PolicyWriter", "TransformersEngine", "VllmEngine"]
