"""The reward that generates no text: how likely the adapted model finds the gold answers."""

from __future__ import annotations

from seal_lightning.core import Attempt, Measurement, RewardScore
from seal_lightning.core.interfaces import Reward
from seal_lightning.scoring.rewards.finite import finite_score


class LikelihoodReward(Reward):
    """Mean log-probability (nats a token, ≤ 0) of the gold answers after adaptation; the mean over questions."""

    @property
    def needs(self) -> frozenset[Measurement]:
        """Likelihood alone."""
        return frozenset({Measurement.LIKELIHOOD})

    def score(self, attempt: Attempt) -> RewardScore:
        """None when not measured or not finite. The breakdown has ``after`` and ``before``, where known."""
        after = attempt.after.log_prob if attempt.after else None
        before = attempt.before.log_prob if attempt.before else None
        return finite_score(after, {"after": after, "before": before})
