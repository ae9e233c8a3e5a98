"""The space of a schema's choices: every configuration a policy could choose, and how likely it is to choose what solves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from seal_lightning.core import Attempt, Choice, TextSchema
from seal_lightning.core.errors import ConfigError, shown


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to fill in a schema's choices."""

    index: int
    """Its place among all configurations of the schema, the first choice changing slowest."""
    choices: dict[str, str]


def configurations(
    schema: TextSchema, allowed: Mapping[str, Sequence[str]], limit: int | None = None, seed: int = 0
) -> list[Configuration]:
    """The schema's configurations whose choices are among those allowed; all, or so many drawn at random, in order.

    Args:
        schema: as :meth:`seal_lightning.core.interfaces.Domain.edit_schema` gives it.
        allowed: for some choices by name, the options to stay with.
        limit: ≥ 1, how many to draw without replacement; None takes all.
        seed: of the draw.

    Raises:
        ConfigError: a choice or an option that the schema does not have.
    """
    choices = [part for part in schema if isinstance(part, Choice)]
    _check_allowed(choices, allowed)
    kept: list[Configuration] = []
    for picked in _drawn([_options(choice, allowed) for choice in choices], limit, seed):
        index = 0
        for choice, option in zip(choices, picked, strict=True):
            index = index * len(choice.options) + choice.options.index(option)
        by_name = {choice.name: option for choice, option in zip(choices, picked, strict=True)}
        kept.append(Configuration(index=index, choices=by_name))
    return kept


def _options(choice: Choice, allowed: Mapping[str, Sequence[str]]) -> list[str]:
    named = {name.strip() for name in allowed.get(choice.name, choice.options)}
    return [option for option in choice.options if option.strip() in named]


def _drawn(options: Sequence[Sequence[str]], limit: int | None, seed: int) -> Iterable[tuple[str, ...]]:
    everything = product(*options)
    total = math.prod(map(len, options))
    if limit is None or limit >= total:
        return everything
    places = {*Random(seed).sample(range(total), limit)}  # noqa: S311 - a sample, no secret
    return (picked for place, picked in enumerate(everything) if place in places)


def _check_allowed(choices: Sequence[Choice], allowed: Mapping[str, Sequence[str]]) -> None:
    by_name = {choice.name: {option.strip() for option in choice.options} for choice in choices}
    for name, options in allowed.items():
        if name not in by_name:
            raise ConfigError(f"{shown(name)} is no choice of the edit's schema; its choices are {', '.join(by_name)}")
        if unknown := [option for option in options if option.strip() not in by_name[name]]:
            raise ConfigError(f"{name}={shown(unknown[0])}: allowed are {', '.join(sorted(by_name[name]))}")


def is_solved(attempt: Attempt) -> bool:
    """Whether the attempt's copy answered every question of its task right."""
    return attempt.after is not None and attempt.after.solved == 1.0


def probability_of_solving(attempts: Sequence[Attempt], log_probs: Sequence[float]) -> float:
    """The share of a policy's probability on configurations that solve, among those tried.

    Args:
        attempts: one a configuration of one task, ≥ 1.
        log_probs: the policy's, one a configuration, nats.
    """
    highest = max(log_probs)
    weights = [math.exp(log_prob - highest) for log_prob in log_probs]
    return sum(w for w, a in zip(weights, attempts, strict=True) if is_solved(a)) / sum(weights)
