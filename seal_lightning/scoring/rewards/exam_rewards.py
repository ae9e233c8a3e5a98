"""Rewards of the task's own exam: accuracy (§4.1), likelihood, solved tasks (§4.2), partial credit, and any function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Attempt, Measurement, RewardScore
from seal_lightning.core.interfaces import Reward

_ANSWERS = frozenset({Measurement.ANSWERS})
_LIKELIHOOD = frozenset({Measurement.LIKELIHOOD})


class AccuracyReward(Reward):
    """Share, in [0, 1], of the scored answers that are correct after adaptation: the paper's reward for knowledge (§4.1).

    Example:
        >>> sorted(AccuracyReward().needs)
        [<Measurement.ANSWERS: 'answers'>]
    """

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers, graded."""
        return _ANSWERS

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when no answer was scored.

        The breakdown has ``after`` and ``before``, where known, and ``num_unscored``: answers after adaptation that the
        grader could not score.
        """
        num_unscored = float(attempt.after.num_unscored) if attempt.after else None
        parts = _before_and_after(attempt, "accuracy")
        return _with_reason(finite_score(parts["after"], {**parts, "num_unscored": num_unscored}), attempt)


class LikelihoodReward(Reward):
    """Mean log-probability (nats per token, ≤ 0) of the gold answers after adaptation, over questions; generates no text.

    Example:
        >>> sorted(LikelihoodReward().needs)
        [<Measurement.LIKELIHOOD: 'likelihood'>]
    """

    @property
    def needs(self) -> frozenset[Measurement]:
        """Likelihood alone."""
        return _LIKELIHOOD

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when not measured or not finite. The breakdown has ``after`` and ``before``, where known."""
        parts = _before_and_after(attempt, "log_prob")
        return finite_score(parts["after"], parts)


class SolvedReward(Reward):
    """1 when every question of the task is answered right after adaptation, else 0: the paper's reward for ARC (§4.2).

    The breakdown has ``after`` and ``before`` and, where measured, ``partial_credit`` and ``log_prob`` (nats per token of
    the gold answers): smoother signals of the same thing.

    Args:
        log_likelihood: also measure the gold answers' log-probability, for the breakdown.

    Example:
        >>> sorted(SolvedReward(log_likelihood=False).needs)
        [<Measurement.ANSWERS: 'answers'>]
    """

    def __init__(self, log_likelihood: bool = True) -> None:
        self.log_likelihood = log_likelihood

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers, and likelihood for the breakdown."""
        return _ANSWERS | _LIKELIHOOD if self.log_likelihood else _ANSWERS

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when an answer could not be scored (no published solution)."""
        parts = _before_and_after(attempt, "solved")
        if attempt.after is not None:
            parts |= {"partial_credit": attempt.after.partial_credit, "log_prob": attempt.after.log_prob}
        return _with_reason(finite_score(parts["after"], parts), attempt)


class PartialCreditReward(Reward):
    """Nearness of the answers after adaptation, in [0, 1]: for grids the share of cells (the better attempt's).

    Example:
        >>> sorted(PartialCreditReward().needs)
        [<Measurement.ANSWERS: 'answers'>]
    """

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers."""
        return _ANSWERS

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None in a domain without partial credit. The breakdown has ``after``, ``before`` and ``solved``."""
        parts = _before_and_after(attempt, "partial_credit")
        solved = attempt.after.solved if attempt.after else None
        return finite_score(parts["after"], {**parts, "solved": solved})


class FunctionReward(Reward):
    """The number that a function makes of an attempt. ``SealModule(reward=function)`` wraps the function in it.

    Args:
        function: returns the reward of an attempt whose ``after`` holds the adapted model's exam; higher is better. None, NaN
            and infinities mean "could not be scored".
        measurements: what is measured for it, before and after adaptation. Without ``answers`` no text is generated.

    Example:
        >>> def gained(attempt):
        ...     return attempt.after.log_prob - attempt.before.log_prob
        >>> reward = FunctionReward(gained, measurements=["likelihood"])
        >>> sorted(reward.needs)
        [<Measurement.LIKELIHOOD: 'likelihood'>]
    """

    def __init__(
        self,
        function: Callable[[Attempt], float | None],
        measurements: Sequence[Measurement] = (Measurement.LIKELIHOOD, Measurement.ANSWERS),
    ) -> None:
        self.function = function
        self.measurements = frozenset(Measurement(name) for name in measurements)

    @property
    def needs(self) -> frozenset[Measurement]:
        """The measurements given."""
        return self.measurements

    def score(self, attempt: Attempt) -> RewardScore:
        """Return the function's value; None where a measurement is missing or a value is not finite."""
        after = attempt.after
        if after is None:
            return RewardScore(value=None)
        measured = {Measurement.LIKELIHOOD: after.log_prob, Measurement.ANSWERS: after.accuracy}
        complete = all(
            value is not None and math.isfinite(value) for name, value in measured.items() if name in self.needs
        )
        return _with_reason(finite_score(self.function(attempt) if complete else None, {}), attempt)


def finite_score(value: float | None, breakdown: Mapping[str, float | None]) -> RewardScore:
    """Return a reward score of finite numbers only.

    Args:
        value: the reward; None, NaN or an infinity becomes None, "could not be scored".
        breakdown: its parts; None, NaN and infinities are dropped.
    """
    finite = {name: part for name, part in breakdown.items() if part is not None and math.isfinite(part)}
    return RewardScore(value=value if value is not None and math.isfinite(value) else None, breakdown=finite)


def _before_and_after(attempt: Attempt, measure: str) -> dict[str, float | None]:
    after = getattr(attempt.after, measure) if attempt.after else None
    before = getattr(attempt.before, measure) if attempt.before else None
    return {"after": after, "before": before}


def _with_reason(score: RewardScore, attempt: Attempt) -> RewardScore:
    """Return a score of graded answers, with the reason where they could not be scored."""
    is_unscored = score.value is None and attempt.after is not None
    return replace(score, reason=attempt.after.unscored_reason) if is_unscored and attempt.after else score
