"""What adaptation gained: any reward, after minus before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from seal_lightning.core import Attempt, ExamScores, Measurement, RewardScore, Verdict, VerdictStatus
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import ExamBuilder, Reward
from seal_lightning.scoring.rewards.finite import finite_score


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
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """The other reward's."""
        return self.base.exam_builders

    def score(self, attempt: Attempt) -> RewardScore:
        """None when either value is.

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
    """The attempt with a verdict unscored on both sides where it is on one."""
    before, after = _matched(attempt.before, attempt.after)
    further = {}
    for name, exam in attempt.auxiliary_exams.items():
        its_before, its_after = _matched(exam.before, exam.after)
        further[name] = replace(exam, before=its_before, after=its_after)
    return replace(attempt, before=before, after=after, auxiliary_exams=further)


def _matched(before: ExamScores | None, after: ExamScores | None) -> tuple[ExamScores | None, ExamScores | None]:
    if before is None or after is None:
        return before, after
    unscored = {
        score.question_id: score.verdict
        for score in (*before.questions, *after.questions)
        if score.verdict is not None and score.verdict.status is VerdictStatus.UNSCORED
    }
    if not unscored:
        return before, after
    return _without(before, unscored), _without(after, unscored)


def _without(scores: ExamScores, unscored: Mapping[str, Verdict]) -> ExamScores:
    """The scores with these verdicts in the place of their own, and no partial credit for them."""
    return ExamScores(
        questions=tuple(
            replace(one, verdict=unscored[one.question_id], partial_credit=None)
            if one.question_id in unscored and one.verdict
            else one
            for one in scores.questions
        )
    )
