"""What adaptation gained: any reward, after minus before."""

from __future__ import annotations

from dataclasses import replace

from seal_lightning.rewards.finite import finite_score
from seal_lightning.seams import Reward
from seal_lightning.types import Attempt, Measurement, RewardScore


class GainReward(Reward):
    """Another reward's value on the adapted model minus its value on the model without adaptation.

    Within a task this ranks edits as the other reward does, ``before`` being shared; across tasks it does not favour
    those that were easy from the start.

    Args:
        base: The reward whose gain it is.
    """

    def __init__(self, base: Reward) -> None:
        self.base = base

    @property
    def needs(self) -> frozenset[Measurement]:
        """What the other reward needs."""
        return self.base.needs

    def score(self, attempt: Attempt) -> RewardScore:
        """None when either value is. The breakdown is the other reward's, its values as ``after`` and ``before``."""
        after = self.base.score(attempt)
        before = self.base.score(replace(attempt, after=attempt.before))
        gain = None if after.value is None or before.value is None else after.value - before.value
        return finite_score(gain, {**after.breakdown, "after": after.value, "before": before.value})
