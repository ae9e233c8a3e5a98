"""The paper's reward for knowledge (§4.1): how many questions the adapted model answers, without the passage."""

from __future__ import annotations

from seal_lightning.core import Attempt, Measurement, RewardScore
from seal_lightning.core.interfaces import Reward
from seal_lightning.scoring.rewards.finite import score_of_answers


class AccuracyReward(Reward):
    """Share, in [0, 1], of the scored answers that are correct after adaptation."""

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers, graded."""
        return frozenset({Measurement.ANSWERS})

    def score(self, attempt: Attempt) -> RewardScore:
        """None when no answer was scored.

        The breakdown has ``after`` and ``before``, where known, and ``num_unscored``: how many answers after adaptation
        the grader could not score.
        """
        after = attempt.after.accuracy if attempt.after else None
        before = attempt.before.accuracy if attempt.before else None
        num_unscored = float(attempt.after.num_unscored) if attempt.after else None
        breakdown = {"after": after, "before": before, "num_unscored": num_unscored}
        return score_of_answers(after, breakdown, attempt.after)
