"""What adaptation gained: any reward, after minus before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from seal_lightning.errors import ConfigError
from seal_lightning.rewards.finite import finite_score
from seal_lightning.seams import Examiner, Reward
from seal_lightning.types import Attempt, Measurement, RewardScore


class GainReward(Reward):
    """Another reward's value on the adapted model minus its value on the model without adaptation.

    Within a task this ranks edits as the other reward does, ``before`` being shared; across tasks it does not favour
    those that were easy from the start.

    Args:
        base: The reward whose gain it is; none that rates edits by reading them, which gain nothing by adaptation.

    Raises:
        ConfigError: ``base`` rates edits.

    """

    def __init__(self, base: Reward) -> None:
        if base.raters:
            raise ConfigError(
                f"GainReward: the base {type(base).__name__} rates edits without adaptation, so it has no before and after; "
                "put it beside the gain in a WeightedSum"
            )
        self.base = base

    @property
    def needs(self) -> frozenset[Measurement]:
        """What the other reward needs."""
        return self.base.needs

    @property
    def examiners(self) -> Mapping[str, Examiner]:
        """The other reward's."""
        return self.base.examiners

    def score(self, attempt: Attempt) -> RewardScore:
        """None when either value is. The breakdown is the other reward's, its values as ``after`` and ``before``."""
        after = self.base.score(attempt)
        before = self.base.score(attempt.unadapted)
        gain = None if after.value is None or before.value is None else after.value - before.value
        score = finite_score(gain, {**after.breakdown, "after": after.value, "before": before.value})
        return replace(score, reason=after.reason or before.reason)
