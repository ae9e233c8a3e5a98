"""Requests to an engine for texts and log-probabilities, and its completions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seal_lightning.core.errors import require
from seal_lightning.core.plans import Adapter, FinishReason, Prompt


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """Settings for sampling tokens.

    Example:
        >>> SamplingSpec(temperature=0.7, max_new_tokens=64, stop=("###",)).top_p
        0.95
    """

    temperature: float = 1.0
    """0 is greedy."""
    choice_temperature: float | None = None
    """Temperature of a schema's choices in training attempts; None: ``temperature``. High values explore settings that
    the model would rarely choose. The M-step then trains, at temperature 1, on choices from a flatter distribution."""
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
    """A slot in a text that takes one of several options.

    Example:
        >>> Choice(name="size", options=("small", "large")).options
        ('small', 'large')
    """

    name: str
    options: tuple[str, ...]
    """≥ 2 different texts, none of them empty."""

    def __post_init__(self) -> None:
        distinct = len(set(self.options)) == len(self.options) >= 2 and all(self.options)
        require(distinct, f"choice {self.name!r}", self.options, "at least 2 different options, none empty")


@dataclass(frozen=True, kw_only=True)
class FreeText:
    """The end of a text, which the model writes freely up to a stop string or its end token."""

    choice: str | None = None
    """Name of an earlier choice on which it depends; None: it is always written."""
    prefixes: tuple[tuple[str, str], ...] = ()
    """With a choice: (option, literal text before the free text). After any other option the text ends."""

    def __post_init__(self) -> None:
        depends = bool(self.prefixes) if self.choice is not None else not self.prefixes
        require(depends, "free text's prefixes", self.prefixes, "options of a choice, or none without a choice")

    def prefix(self, choices: Mapping[str, str]) -> str | None:
        """Return the literal text before the free text after these choices; None where no free text follows."""
        return "" if self.choice is None else dict(self.prefixes).get(choices[self.choice])


TextSchema = tuple[str | Choice | FreeText, ...]
"""A text with slots: literal texts, choices that the model makes by its own probabilities, and at most one free text, at the
end. For example ``("Size: ", Choice(name="size", options=("small", "large")), "\\n", FreeText())``."""


def fill_choices(schema: TextSchema, choices: Mapping[str, str]) -> TextSchema:
    """Return the schema with these choices made: literals in their slots, and a free text that depends on them settled.

    The literals stay separate parts and are tokenised separately: the same choices give the same tokens.

    Args:
        schema: the schema.
        choices: options by the choice's name; other choices stay open.

    Example:
        >>> ending = FreeText(choice="size", prefixes=(("L", " It "),))
        >>> schema = ("size ", Choice(name="size", options=("S", "L")), "!", ending)
        >>> fill_choices(schema, {"size": "S"})
        ('size ', 'S', '!')
        >>> fill_choices(schema, {"size": "L"})
        ('size ', 'L', '!', ' It ', FreeText(choice=None, prefixes=()))
    """
    parts: list[str | Choice | FreeText] = []
    for part in schema:
        if isinstance(part, Choice) and part.name in choices:
            parts.append(choices[part.name])
        elif isinstance(part, FreeText) and part.choice in choices:
            prefix = part.prefix(choices)
            parts += [] if prefix is None else [prefix, FreeText()]
        else:
            parts.append(part)
    return tuple(part for part in parts if part != "")


def merge_literals(parts: Sequence[str | Choice | FreeText]) -> TextSchema:
    """Return the parts with neighbouring literals concatenated, so that they are tokenised together."""
    merged: list[str | Choice | FreeText] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for one completion."""

    prompt: Prompt
    sampling: SamplingSpec
    adapter: Adapter | None = None
    seed: int = 0
    """Seeds this request's own generator, so its neighbours in a batch change nothing but rounding."""
    schema: TextSchema | None = None
    """Constrained decoding: the completion is this text with its choices filled in. ``sampling`` gives the choices'
    temperature, and applies in full to the free text at the end, if any."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A text that a model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    chosen: tuple[bool, ...] | None = None
    """With a schema: mask of the tokens that the model chose among options or wrote freely; the others are literals.
    None: it chose all."""
    choices: dict[str, str] | None = None
    """With a schema: the option taken, by the choice's name."""
    log_prob: float | None = None
    """With a schema: the log-probability (nats, ≤ 0) of the choices made, among what the schema allows, at temperature 1."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A request for the log-probability of a target after a prompt."""

    prompt: Prompt
    target: str
    adapter: Adapter | None = None


@dataclass(frozen=True, kw_only=True)
class ChoiceScoreRequest:
    """A request for the log-probability of a schema's choices after a prompt, see :attr:`Completion.log_prob`."""

    prompt: Prompt
    schema: TextSchema
    choices: dict[str, str]
    """The option of every choice of the schema, by the choice's name."""
    adapter: Adapter | None = None
