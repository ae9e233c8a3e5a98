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
class Choice:
    """A place in a text that is one of several things."""

    name: str
    options: tuple[str, ...]
    """≥ 2 different texts, none of them empty."""

    def __post_init__(self) -> None:
        distinct = len(set(self.options)) == len(self.options) >= 2 and all(self.options)
        require(distinct, f"choice {self.name!r}", self.options, "at least 2 different options, none empty")


TextSchema = tuple[str | Choice, ...]
"""A text with choices in it: literal texts, and choices between them that the model makes by its own probabilities."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One completion that is asked for."""

    prompt: Prompt
    sampling: SamplingSpec
    adapter: Adapter | None = None
    seed: int = 0
    """Seeds this request's own generator: its neighbours in a batch change nothing but rounding."""
    schema: TextSchema | None = None
    """Constrained decoding: the completion is this text, its choices filled in. Of ``sampling``, the temperature counts."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    chosen: tuple[bool, ...] | None = None
    """With a schema: for each token, whether the model chose it among several (and it was not given). None: it chose all."""
    choices: dict[str, str] | None = None
    """With a schema: the option taken, by the choice's name."""
    log_prob: float | None = None
    """With a schema: the log-probability (nats, ≤ 0) of the choices made, among what the schema allows, at temperature 1."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A target whose log-probability after a prompt is asked for."""

    prompt: Prompt
    target: str
    adapter: Adapter | None = None


@dataclass(frozen=True, kw_only=True)
class ChoiceScoreRequest:
    """Choices whose log-probability after a prompt is asked for, see :attr:`Completion.log_prob`."""

    prompt: Prompt
    schema: TextSchema
    choices: dict[str, str]
    """The option of every choice of the schema, by the choice's name."""
    adapter: Adapter | None = None
