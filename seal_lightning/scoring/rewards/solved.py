"""The paper's reward for few-shot ARC (§4.2): whether the adapted model solves the task, and a softer one beside it."""

from __future__ import annotations

from seal_lightning.core import Attempt, ExamScores, Measurement, RewardScore
from seal_lightning.core.interfaces import Reward
from seal_lightning.scoring.rewards.finite import finite_score, score_of_answers


class SolvedReward(Reward):
    """1 when every question of the task is answered right after adaptation, else 0.

    The breakdown has ``after`` and ``before`` and, where they were measured, ``partial_credit`` and ``log_prob`` (nats a
    token of the gold answers): smoother signals of the same thing.

    Args:
        log_likelihood: Also measure the gold answers' log-probability, for the breakdown.
    """

    def __init__(self, log_likelihood: bool = True) -> None:
        self.log_likelihood = log_likelihood

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers, and likelihood where wished."""
        answers = frozenset({Measurement.ANSWERS})
        return answers | {Measurement.LIKELIHOOD} if self.log_likelihood else answers

    def score(self, attempt: Attempt) -> RewardScore:
        """None when an answer could not be scored (no published solution)."""
        after = attempt.after.solved if attempt.after else None
        before = attempt.before.solved if attempt.before else None
        breakdown = {"after": after, "before": before, **_softer(attempt.after)}
        return score_of_answers(after, breakdown, attempt.after)


class PartialCreditReward(Reward):
    """How nearly right the answers are after adaptation, in [0, 1]: for grids the share of cells (the better attempt's)."""

    @property
    def needs(self) -> frozenset[Measurement]:
        """Answers."""
        return frozenset({Measurement.ANSWERS})

    def score(self, attempt: Attempt) -> RewardScore:
        """None in a domain without partial credit. The breakdown has ``after``, ``before`` and ``solved``."""
        after = attempt.after.partial_credit if attempt.after else None
        before = attempt.before.partial_credit if attempt.before else None
        solved = attempt.after.solved if attempt.after else None
        return finite_score(after, {"after": after, "before": before, "solved": solved})


def _softer(scores: ExamScores | None) -> dict[str, float | None]:
    return {} if scores is None else {"partial_credit": scores.partial_credit, "log_prob": scores.log_prob}
