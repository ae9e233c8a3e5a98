"""Each reward on attempts with known scores."""

import math
from dataclasses import replace

import pytest

from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    ExamScores,
    Measurement,
    QuestionScore,
    RewardScore,
    SelfEdit,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.interfaces import Reward
from seal_lightning.scoring.rewards import (
    AccuracyReward,
    FunctionReward,
    GainReward,
    LikelihoodReward,
    PartialCreditReward,
    SolvedReward,
)

NAN, INF = math.nan, math.inf


def attempt(before: ExamScores | None, after: ExamScores | None) -> Attempt:
    edit = SelfEdit(task_id="t", edit_index=0, text="")
    return Attempt(
        attempt_id="r0-t-e0-s0",
        round=0,
        repeat=0,
        seed=0,
        edit=edit,
        status=AttemptStatus.SCORED,
        before=before,
        after=after,
    )


def likely(*log_probs: float | None) -> ExamScores:
    return ExamScores(questions=tuple(QuestionScore(question_id=str(i), log_prob=p) for i, p in enumerate(log_probs)))


def graded(marks: str) -> ExamScores:
    """One question a letter: c(orrect), w(rong), u(nscored), - not graded."""
    statuses = {"c": VerdictStatus.CORRECT, "w": VerdictStatus.WRONG, "u": VerdictStatus.UNSCORED}
    return ExamScores(
        questions=tuple(
            QuestionScore(
                question_id=str(i),
                verdict=Verdict(question_id=str(i), status=statuses[mark]) if mark in statuses else None,
            )
            for i, mark in enumerate(marks)
        )
    )


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (likely(-4.0), likely(-1.0, -2.0), -1.5, {"after": -1.5, "before": -4.0}),
        (None, likely(-1.0), -1.0, {"after": -1.0}),
        (likely(-4.0), None, None, {"before": -4.0}),
        (likely(-4.0), likely(None), None, {"before": -4.0}),
        (likely(-4.0), likely(NAN), None, {"before": -4.0}),
        (likely(NAN), likely(-1.0, -INF), None, {}),
        (likely(-INF), likely(-1.0), -1.0, {"after": -1.0}),
        (likely(-1.0), likely(0.0), 0.0, {"after": 0.0, "before": -1.0}),
        (None, None, None, {}),
    ],
)
def test_likelihood(before, after, value, breakdown):
    assert LikelihoodReward().score(attempt(before, after)) == RewardScore(value=value, breakdown=breakdown)


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (graded("wwww"), graded("cccw"), 0.75, {"after": 0.75, "before": 0.0, "num_unscored": 0.0}),
        (graded("cw"), graded("cwuu"), 0.5, {"after": 0.5, "before": 0.5, "num_unscored": 2.0}),
        (graded("uu"), graded("ww"), 0.0, {"after": 0.0, "num_unscored": 0.0}),
        (graded("cw"), graded("uuu"), None, {"before": 0.5, "num_unscored": 3.0}),
        (None, graded("--"), None, {"num_unscored": 0.0}),
        (graded("c"), None, None, {"before": 1.0}),
        (None, None, None, {}),
    ],
)
def test_accuracy(before, after, value, breakdown):
    score = AccuracyReward().score(attempt(before, after))
    assert score == RewardScore(value=value, breakdown=breakdown)
    assert all(isinstance(part, float) for part in score.breakdown.values())


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (likely(-4.0), likely(-1.0), 3.0, {"after": -1.0, "before": -4.0}),
        (likely(-1.0), likely(-4.0), -3.0, {"after": -4.0, "before": -1.0}),
        (None, likely(-1.0), None, {"after": -1.0}),
        (likely(-4.0), None, None, {"before": -4.0}),
        (likely(NAN), likely(-1.0), None, {"after": -1.0}),
        (None, None, None, {}),
    ],
)
def test_gain_in_likelihood(before, after, value, breakdown):
    assert GainReward(LikelihoodReward()).score(attempt(before, after)) == RewardScore(value=value, breakdown=breakdown)


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (graded("cwww"), graded("cccu"), 1 - 1 / 3, {"after": 1.0, "before": 1 / 3, "num_unscored": 1.0}),
        (graded("cccww"), graded("cccuu"), 0.0, {"after": 1.0, "before": 1.0, "num_unscored": 2.0}),  # an outage
        (graded("uccw"), graded("wccc"), 1 - 2 / 3, {"after": 1.0, "before": 2 / 3, "num_unscored": 1.0}),
        (graded("uu"), graded("cc"), None, {"num_unscored": 2.0}),
        (graded("cc"), graded("uu"), None, {"num_unscored": 2.0}),
    ],
)
def test_gain_in_accuracy(before, after, value, breakdown):
    assert GainReward(AccuracyReward()).score(attempt(before, after)) == RewardScore(value=value, breakdown=breakdown)


def cells(marks: str, *credit: float | None, log_prob: float | None = None) -> ExamScores:
    """``graded``, each question with its partial credit."""
    questions = graded(marks).questions
    return ExamScores(
        questions=tuple(replace(q, partial_credit=c, log_prob=log_prob) for q, c in zip(questions, credit, strict=True))
    )


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (graded("wc"), graded("cc"), 1.0, {"after": 1.0, "before": 0.0}),
        (graded("cc"), graded("cw"), 0.0, {"after": 0.0, "before": 1.0}),
        (graded("w"), graded("cu"), None, {"before": 0.0}),
        (graded("u"), graded("wu"), None, {}),
        (None, graded("--"), None, {}),
        (None, graded("c-"), 1.0, {"after": 1.0}),
        (graded("c"), None, None, {"before": 1.0}),
        (None, None, None, {}),
        (
            cells("w", 0.0),
            cells("w", 0.75, log_prob=-2.0),
            0.0,
            {"after": 0, "before": 0, "partial_credit": 0.75, "log_prob": -2},
        ),
        (None, cells("cu", 1.0, None, log_prob=-1.0), None, {"partial_credit": 1.0, "log_prob": -1.0}),
        (None, cells("c", 1.0, log_prob=NAN), 1.0, {"after": 1.0, "partial_credit": 1.0}),
        (None, likely(-2.0), None, {"log_prob": -2.0}),
    ],
)
def test_solved(before, after, value, breakdown):
    assert SolvedReward().score(attempt(before, after)) == RewardScore(value=value, breakdown=breakdown)


@pytest.mark.parametrize(
    ("before", "after", "value", "breakdown"),
    [
        (cells("w", 0.25), cells("cw", 1.0, 0.5), 0.75, {"after": 0.75, "before": 0.25, "solved": 0.0}),
        (None, cells("c", 1.0), 1.0, {"after": 1.0, "solved": 1.0}),
        (None, cells("cu", 0.5, None), 0.5, {"after": 0.5}),
        (None, cells("w", 0.0), 0.0, {"after": 0.0, "solved": 0.0}),
        (cells("w", 0.5), cells("u", None), None, {"before": 0.5}),
        (graded("c"), graded("c"), None, {"solved": 1.0}),
        (None, cells("w", NAN), None, {"solved": 0.0}),
        (cells("w", 0.5), None, None, {"before": 0.5}),
        (None, None, None, {}),
    ],
)
def test_partial_credit(before, after, value, breakdown):
    assert PartialCreditReward().score(attempt(before, after)) == RewardScore(value=value, breakdown=breakdown)


def test_function_reward_is_the_functions_value():
    reward = FunctionReward(lambda tried: 2 * tried.after.log_prob + len(tried.edit.text), ["likelihood"])
    assert reward.score(attempt(likely(-4.0), likely(-1.0))).value == -2.0
    assert GainReward(reward).score(attempt(likely(-4.0), likely(-1.0))).value == 6.0
    assert reward.score(attempt(likely(-4.0), None)).value is None
    assert FunctionReward(lambda tried: NAN, ["likelihood"]).score(attempt(None, likely(-1.0))).value is None


def test_gain_not_finite_is_unscored():
    class Infinite(Reward):
        needs = frozenset({Measurement.LIKELIHOOD})

        def score(self, attempt: Attempt) -> RewardScore:
            return RewardScore(value=INF, breakdown={"strength": INF, "parts": 2.0})

    assert GainReward(Infinite()).score(attempt(None, None)) == RewardScore(value=None, breakdown={"parts": 2.0})


def test_gain_leaves_the_attempt_unchanged():
    tried = attempt(likely(-4.0), likely(-1.0))
    GainReward(LikelihoodReward()).score(tried)
    assert tried == attempt(likely(-4.0), likely(-1.0))


@pytest.mark.parametrize(
    ("reward", "needs"),
    [
        (LikelihoodReward(), {Measurement.LIKELIHOOD}),
        (AccuracyReward(), {Measurement.ANSWERS}),
        (SolvedReward(), {Measurement.ANSWERS, Measurement.LIKELIHOOD}),
        (SolvedReward(log_likelihood=False), {Measurement.ANSWERS}),
        (PartialCreditReward(), {Measurement.ANSWERS}),
        (GainReward(PartialCreditReward()), {Measurement.ANSWERS}),
        (GainReward(LikelihoodReward()), {Measurement.LIKELIHOOD}),
        (GainReward(AccuracyReward()), {Measurement.ANSWERS}),
    ],
)
def test_needs(reward, needs):
    assert reward.needs == needs


@pytest.mark.parametrize("reward", [AccuracyReward(), SolvedReward()])
def test_unscored_answers_give_the_reason(reward):
    verdict = Verdict(question_id="0", status=VerdictStatus.UNSCORED, reason="judge undecided: HTTP 500")
    after = ExamScores(questions=(QuestionScore(question_id="0", answer="red", verdict=verdict),))
    score = reward.score(attempt(None, after))
    assert (score.value, score.reason) == (None, "judge undecided: HTTP 500")
