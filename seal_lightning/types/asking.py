"""What is asked of a model, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seal_lightning.types.bounds import require
from seal_lightning.types.editing import FinishReason, Prompt
from seal_lightning.types.planning import Adapter


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 0.95
    """In (0, 1]: sample from the smallest set of tokens whose probabilities sum to at least this."""
    max_new_tokens: int = 8192
    """≥ 1."""
    stop: tuple[str, ...] = ()
    """The completion ends before the first of these strings."""

    def __post_init__(self) -> None:
        require(0 <= self.temperature < math.inf, "sampling.temperature", self.temperature, "at least 0 and finite")
        require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")
        require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One completion that is asked for."""

    prompt: Prompt
    sampling: SamplingSpec
    adapter: Adapter | None = None
    seed: int = 0
    """Seeds this request's own generator: its neighbours in a batch change nothing but rounding."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A target whose log-probability after a prompt is asked for."""

    prompt: Prompt
    target: str
    adapter: Adapter | None = None
