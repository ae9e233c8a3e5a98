"""What is asked of a model, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.core.bounds import require
from seal_lightning.core.edits import FinishReason, Prompt
from seal_lightning.core.plans import Adapter


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0 is greedy."""
    choice_temperature: float | None = None
    """Of a schema's choices while edits are tried; None is as ``temperature``. High ones explore: they try settings that the
    model would rarely choose. An M-step then learns at temperature 1 from what a flatter distribution chose."""
    top_p: float = 0.95
    """In (0, 1]: sample from the smallest set of tokens whose probabilities sum to at least this."""
    max_new_tokens: int = 8192
    """≥ 1."""
    stop: tuple[str, ...] = ()
    """The completion ends before the first of these strings."""

    def __post_init__(self) -> None:
        require(0 <= self.temperature < math.inf, "sampling.temperature", self.temperature, "at least 0 and finite")
        choice = 0.0 if self.choice_temperature is None else self.choice_temperature
        require(0 <= choice < math.inf, "sampling.choice_temperature", choice, "null, or at least 0 and finite")
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


@dataclass(frozen=True, kw_only=True)
class FreeText:
    """The end of a text: the model writes it freely, up to a stop string or its end token."""

    choice: str | None = None
    """The name of a choice before it on which it depends; None: it is always written."""
    openings: tuple[tuple[str, str], ...] = ()
    """With a choice: (option, what is given before the free text). After an option that is not here the text is over."""

    def __post_init__(self) -> None:
        depends = bool(self.openings) if self.choice is not None else not self.openings
        require(depends, "free text's openings", self.openings, "options of a choice, or none without a choice")

    def opening(self, choices: Mapping[str, str]) -> str | None:
        """What is given before the free text after these choices; None where none is written."""
        return "" if self.choice is None else dict(self.openings).get(choices[self.choice])


TextSchema = tuple[str | Choice | FreeText, ...]
"""A text with choices in it: literal texts, choices between them that the model makes by its own probabilities, and at most
one free text, at the end."""


def filled_in(schema: TextSchema, choices: Mapping[str, str]) -> TextSchema:
    """The schema with these of its choices made: literals in their place, and a free text that depends on them settled.

    They stay parts of their own, which are tokenised apart: the same choices are the same tokens, whoever made them.

    Args:
        schema: the schema.
        choices: options by the choice's name; a choice that is not in it stays open.
    """
    parts: list[str | Choice | FreeText] = []
    for part in schema:
        if isinstance(part, Choice) and part.name in choices:
            parts.append(choices[part.name])
        elif isinstance(part, FreeText) and part.choice in choices:
            opening = part.opening(choices)
            parts += [] if opening is None else [opening, FreeText()]
        else:
            parts.append(part)
    return tuple(part for part in parts if part != "")


def joined_literals(parts: Sequence[str | Choice | FreeText]) -> TextSchema:
    """Neighbouring literals as one: they are tokenised together."""
    joined: list[str | Choice | FreeText] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One completion that is asked for."""

    prompt: Prompt
    sampling: SamplingSpec
    adapter: Adapter | None = None
    seed: int = 0
    """Seeds this request's own generator: its neighbours in a batch change nothing but rounding."""
    schema: TextSchema | None = None
    """Constrained decoding: the completion is this text, its choices filled in. Of ``sampling`` their temperature counts, and
    all of it for the free text that may end it."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    chosen: tuple[bool, ...] | None = None
    """With a schema: for each token, whether the model chose it among several, or wrote it freely (and it was not given).
    None: it chose all."""
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
