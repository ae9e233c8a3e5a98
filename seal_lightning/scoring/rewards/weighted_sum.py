"""Several rewards as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.core import Attempt, Measurement, RewardScore
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import ExamBuilder, Rater, Reward
from seal_lightning.scoring.rewards.finite import finite_score
from seal_lightning.scoring.rewards.parts import united


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    """One reward of a sum."""

    weight: float
    """Finite; below 0 the reward is a cost. Mind the units: nats, shares and marks are not of one size."""
    reward: Reward
    name: str | None = None
    """In the breakdown; None is the reward's class."""


class WeightedSum(Reward):
    """Σ weight · reward. What several terms need is measured once.

    Args:
        terms: At least one; their names must differ, and not all weights be 0.

    Raises:
        ConfigError: A setting is out of bounds.

    """

    def __init__(self, terms: list[WeightedTerm]) -> None:
        weights = [term.weight for term in terms]
        if not all(math.isfinite(weight) for weight in weights) or not any(weights):
            raise ConfigError(f"WeightedSum: the weights are {shown(weights)}; they must be finite, and not all 0")
        self.terms: Mapping[str, WeightedTerm] = {term.name or type(term.reward).__name__: term for term in terms}
        if len(self.terms) < len(terms):
            names = [term.name or type(term.reward).__name__ for term in terms]
            raise ConfigError(f"WeightedSum: the terms are named {shown(names)}; give each a `name` of its own")
        self._examiners = united(term.reward.exam_builders for term in terms)
        self._raters = united(term.reward.raters for term in terms)

    @property
    def needs(self) -> frozenset[Measurement]:
        """What any term needs."""
        return frozenset().union(*(term.reward.needs for term in self.terms.values()))

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """Those of all terms."""
        return self._examiners

    @property
    def raters(self) -> Mapping[str, Rater]:
        """Those of all terms."""
        return self._raters

    def score(self, attempt: Attempt) -> RewardScore:
        """None when any term is.

        The breakdown has each term's value by its name, ``name/part`` for its parts, and the sum with and without adaptation
        as ``after`` and ``before`` (where anything is adapted; a rating is the same in both).
        """
        given = {name: term.reward.score(attempt) for name, term in self.terms.items()}
        unadapted = {name: term.reward.score(attempt.unadapted) for name, term in self.terms.items()}
        value, before = self._sum(given), self._sum(unadapted) if self.adapts else None
        parts: dict[str, float | None] = {}
        for name, score in given.items():
            parts |= {name: score.value, **{f"{name}/{part}": number for part, number in score.breakdown.items()}}
        missing = [name for name, score in given.items() if score.value is None]
        reason = (given[missing[0]].reason or f"{missing[0]} could not be scored") if missing else None
        return replace(finite_score(value, {**parts, "after": value, "before": before}), reason=reason)

    def _sum(self, scores: Mapping[str, RewardScore]) -> float | None:
        values: Sequence[float | None] = [score.value for score in scores.values()]
        if any(value is None for value in values):
            return None
        return sum(
            term.weight * value for term, value in zip(self.terms.values(), values, strict=True) if value is not None
        )
