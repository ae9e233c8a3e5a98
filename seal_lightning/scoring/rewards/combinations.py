"""Rewards made of other rewards: the gain by adaptation, and a weighted sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from seal_lightning.core import Attempt, ExamScores, Measurement, RewardScore, Verdict, VerdictStatus
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import ExamBuilder, Rater, Reward
from seal_lightning.scoring.rewards.exam_rewards import finite_score

PartT = TypeVar("PartT")


def merged_parts(parts: Iterable[Mapping[str, PartT]]) -> dict[str, PartT]:
    """Return exam builders or raters of several rewards, by name. Raises :class:`ConfigError` for a shared name."""
    found: dict[str, PartT] = {}
    for named in parts:
        for name, part in named.items():
            if found.setdefault(name, part) is not part:
                raise ConfigError(
                    f"model.reward: two parts are named {shown(name)}, by which their results are stored; give one of them "
                    "another name (init_args: {name: …})"
                )
    return found


def require_exam_only(reward: Reward, owner: str) -> None:
    """Raise :class:`ConfigError` unless a reward depends on one exam alone."""
    if reward.exam_builders or reward.raters or not reward.needs:
        raise ConfigError(
            f"{owner}: the base {type(reward).__name__} is not allowed; it must be a reward of the exam alone, for instance "
            "LikelihoodReward or AccuracyReward. Combine others with it in a WeightedSum"
        )


class GainReward(Reward):
    """Another reward's value on the adapted model minus its value on the model without adaptation.

    Within a task this ranks edits as the other reward does, since they share ``before``; across tasks it does not favour
    those that were easy from the start.

    Args:
        base: the other reward; not one that rates edits, which does not depend on adaptation.

    Raises:
        ConfigError: ``base`` rates edits.

    Example:
        >>> from seal_lightning.scoring.rewards import LikelihoodReward
        >>> GainReward(LikelihoodReward()).adapts
        True
    """

    def __init__(self, base: Reward) -> None:
        if base.raters:
            raise ConfigError(
                f"GainReward: the base {type(base).__name__} rates edits without adaptation, so it has no before and after; "
                "combine it with the gain in a WeightedSum"
            )
        self.base = base

    @property
    def needs(self) -> frozenset[Measurement]:
        """The other reward's."""
        return self.base.needs

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """The other reward's."""
        return self.base.exam_builders

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when either value is None.

        An answer that could not be scored before or after counts on neither side: else an outage of the judge would look
        like a gain, or a loss. The breakdown is the other reward's, its values as ``after`` and ``before``.
        """
        attempt = _scored_on_both_sides(attempt)
        after = self.base.score(attempt)
        before = self.base.score(attempt.unadapted)
        gain = None if after.value is None or before.value is None else after.value - before.value
        score = finite_score(gain, {**after.breakdown, "after": after.value, "before": before.value})
        return replace(score, reason=after.reason or before.reason)


def _scored_on_both_sides(attempt: Attempt) -> Attempt:
    """Return the attempt with a verdict unscored on both sides where it is on one."""
    before, after = _matched(attempt.before, attempt.after)
    auxiliary = {}
    for name, exam in attempt.auxiliary_exams.items():
        its_before, its_after = _matched(exam.before, exam.after)
        auxiliary[name] = replace(exam, before=its_before, after=its_after)
    return replace(attempt, before=before, after=after, auxiliary_exams=auxiliary)


def _matched(before: ExamScores | None, after: ExamScores | None) -> tuple[ExamScores | None, ExamScores | None]:
    if before is None or after is None:
        return before, after
    unscored = {
        score.question_id: score.verdict
        for score in (*before.questions, *after.questions)
        if score.verdict is not None and score.verdict.status is VerdictStatus.UNSCORED
    }
    return (_without(before, unscored), _without(after, unscored)) if unscored else (before, after)


def _without(scores: ExamScores, unscored: Mapping[str, Verdict]) -> ExamScores:
    """Return the scores with these verdicts instead of their own, and no partial credit for them."""
    return ExamScores(
        questions=tuple(
            replace(one, verdict=unscored[one.question_id], partial_credit=None)
            if one.question_id in unscored and one.verdict
            else one
            for one in scores.questions
        )
    )


@dataclass(frozen=True, kw_only=True)
class WeightedTerm:
    """One reward of a sum.

    Example:
        >>> from seal_lightning.scoring.rewards import LikelihoodReward
        >>> WeightedTerm(weight=0.5, reward=LikelihoodReward()).title
        'LikelihoodReward'
    """

    weight: float
    """Finite; below 0 the reward is a cost. Mind the units: nats, shares and marks differ in size."""
    reward: Reward
    name: str | None = None
    """In the breakdown; None is the reward's class."""

    @property
    def title(self) -> str:
        """The name in the breakdown."""
        return self.name or type(self.reward).__name__


class WeightedSum(Reward):
    """Σ weight · reward. Measurements that several terms need are made once.

    Args:
        terms: at least one; their names must differ, and not all weights be 0.

    Raises:
        ConfigError: a setting is out of bounds.

    Example:
        >>> from seal_lightning.scoring.rewards import AccuracyReward, LikelihoodReward
        >>> both = [WeightedTerm(weight=1.0, reward=LikelihoodReward()), WeightedTerm(weight=2.0, reward=AccuracyReward())]
        >>> len(WeightedSum(both).needs)
        2
    """

    def __init__(self, terms: list[WeightedTerm]) -> None:
        weights = [term.weight for term in terms]
        if not all(math.isfinite(weight) for weight in weights) or not any(weights):
            raise ConfigError(f"WeightedSum: the weights are {shown(weights)}; they must be finite, and not all 0")
        self.terms: Mapping[str, WeightedTerm] = {term.title: term for term in terms}
        if len(self.terms) < len(terms):
            names = [term.title for term in terms]
            raise ConfigError(f"WeightedSum: the terms are named {shown(names)}; give each a `name` of its own")
        self._exam_builders = merged_parts(term.reward.exam_builders for term in terms)
        self._raters = merged_parts(term.reward.raters for term in terms)

    @property
    def needs(self) -> frozenset[Measurement]:
        """Those of all terms."""
        return frozenset().union(*(term.reward.needs for term in self.terms.values()))

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """Those of all terms."""
        return self._exam_builders

    @property
    def raters(self) -> Mapping[str, Rater]:
        """Those of all terms."""
        return self._raters

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when any term is None.

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
        weighted = [self.terms[name].weight * one.value for name, one in scores.items() if one.value is not None]
        return sum(weighted) if len(weighted) == len(scores) else None
