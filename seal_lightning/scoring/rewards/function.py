"""A reward from a plain function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from seal_lightning.core import Attempt, Measurement, RewardScore
from seal_lightning.core.interfaces import Reward
from seal_lightning.scoring.rewards.finite import score_of_answers


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
        ['likelihood']
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
            return score_of_answers(None, {}, after)
        measured = {Measurement.LIKELIHOOD: after.log_prob, Measurement.ANSWERS: after.accuracy}
        complete = all(
            value is not None and math.isfinite(value) for name, value in measured.items() if name in self.needs
        )
        return score_of_answers(self.function(attempt) if complete else None, {}, after)
