"""What every reward must do; a new one needs a line in ``REWARDS``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from implementations import implementations

from seal_lightning.rewards import AccuracyReward, GainReward, LikelihoodReward, PartialCreditReward, SolvedReward
from seal_lightning.seams import Reward
from seal_lightning.types import (
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reward, and in what it is not like the others."""

    make: Callable[[], Reward]
    for_the_breakdown: frozenset[Measurement] = frozenset()
    """What it asks for without its value depending on it."""
    all_or_nothing: bool = False
    """Whether every question counts: then one unscored makes it None, and some right are worth no more than none."""


REWARDS: dict[str, Case] = {
    "accuracy": Case(make=AccuracyReward),
    "likelihood": Case(make=LikelihoodReward),
    "solved": Case(make=SolvedReward, for_the_breakdown=frozenset({Measurement.LIKELIHOOD}), all_or_nothing=True),
    "solved, answers alone": Case(make=lambda: SolvedReward(log_likelihood=False), all_or_nothing=True),
    "partial credit": Case(make=PartialCreditReward),
    "gain in accuracy": Case(make=lambda: GainReward(AccuracyReward())),
    "gain in likelihood": Case(make=lambda: GainReward(LikelihoodReward())),
    "gain in partial credit": Case(make=lambda: GainReward(PartialCreditReward())),
}


def test_every_reward_of_the_package_is_held_to_this() -> None:
    found = implementations(Reward)
    assert found
    missing = found - {type(case.make()) for case in REWARDS.values()}
    assert not missing, f"add a line to REWARDS for {sorted(kind.__qualname__ for kind in missing)}"


@pytest.fixture(params=REWARDS)
def case(request: pytest.FixtureRequest) -> Case:
    return REWARDS[request.param]


@pytest.fixture
def reward(case: Case) -> Reward:
    return case.make()


@pytest.fixture
def decides(case: Case, reward: Reward) -> frozenset[Measurement]:
    """What the reward's value is made from."""
    return reward.needs - case.for_the_breakdown


def exam(right: int, of: int, log_prob: float | None, measured: frozenset[Measurement]) -> ExamScores:
    """Questions of which the first ``right`` are answered well; what is not ``measured`` is None."""
    answers, likelihood = Measurement.ANSWERS in measured, Measurement.LIKELIHOOD in measured
    return ExamScores(
        questions=tuple(
            QuestionScore(
                question_id=str(i),
                log_prob=log_prob if likelihood else None,
                num_target_tokens=2 if likelihood else 0,
                answer="red" if answers else None,
                verdict=Verdict(
                    question_id=str(i), status=VerdictStatus.CORRECT if i < right else VerdictStatus.WRONG, reason="x"
                )
                if answers
                else None,
                exact_match=1.0 if answers else None,
                f1=1.0 if answers else None,
                partial_credit=float(i < right) if answers else None,
            )
            for i in range(of)
        )
    )


def attempt(before: ExamScores | None, after: ExamScores | None) -> Attempt:
    return Attempt(
        attempt_id="r0-t-e0-s0",
        round=0,
        repeat=0,
        seed=0,
        edit=SelfEdit(task_id="t", edit_index=0, text="red"),
        status=AttemptStatus.SCORED,
        before=before,
        after=after,
    )


def measured(what: frozenset[Measurement]) -> Attempt:
    return attempt(exam(1, 4, -3.0, what), exam(3, 4, -1.25, what))


def assert_plain(score: RewardScore) -> None:
    """Finite numbers only, so that a score survives JSON."""
    assert score.value is None or (isinstance(score.value, float) and math.isfinite(score.value))
    assert all(isinstance(name, str) and math.isfinite(part) for name, part in score.breakdown.items())


ALL = frozenset(Measurement)


def test_it_says_what_it_needs(reward: Reward) -> None:
    assert isinstance(reward.needs, frozenset)
    assert reward.needs
    assert all(isinstance(need, Measurement) for need in reward.needs)


def test_what_it_needs_is_enough(reward: Reward) -> None:
    """With that alone the score is a finite number, and the same as with everything measured (which may be shown)."""
    score, with_all = reward.score(measured(reward.needs)), reward.score(measured(ALL))
    assert_plain(score)
    assert score.value is not None
    assert score.value == with_all.value
    assert score.breakdown.items() <= with_all.breakdown.items()


@pytest.mark.parametrize("without", Measurement)
def test_none_without_what_it_needs(reward: Reward, decides: frozenset[Measurement], without: Measurement) -> None:
    score = reward.score(measured(ALL - {without}))
    assert_plain(score)
    assert (score.value is None) == (without in decides)


@pytest.mark.parametrize("before", [None, ExamScores(questions=()), exam(1, 2, -2.0, ALL)])
@pytest.mark.parametrize("after", [None, ExamScores(questions=())])
def test_none_without_an_exam_after(reward: Reward, before: ExamScores | None, after: ExamScores | None) -> None:
    score = reward.score(attempt(before, after))
    assert score.value is None
    assert_plain(score)


@pytest.mark.parametrize("before", [None, ExamScores(questions=()), exam(0, 2, math.nan, ALL)])
def test_an_exam_before_that_says_nothing_is_no_error(reward: Reward, before: ExamScores | None) -> None:
    assert_plain(reward.score(attempt(before, exam(1, 2, -2.0, ALL))))


def test_unscored_answers_are_no_wrong_ones(case: Case, reward: Reward, decides: frozenset[Measurement]) -> None:
    """None where all are unscored and answers are needed; one beside scored ones changes nothing, or all."""

    def with_unscored(exam_scores: ExamScores | None, keep: int) -> ExamScores:
        assert exam_scores is not None
        questions = [
            replace(q, verdict=replace(q.verdict, status=VerdictStatus.UNSCORED), partial_credit=None)
            if q.verdict and i >= keep
            else q
            for i, q in enumerate(exam_scores.questions)
        ]
        return ExamScores(questions=tuple(questions))

    whole = attempt(exam(1, 4, -3.0, ALL), exam(3, 3, -1.0, ALL))
    one_more = replace(whole, after=with_unscored(exam(3, 4, -1.0, ALL), keep=3))
    assert reward.score(one_more).value == (None if case.all_or_nothing else reward.score(whole).value)
    unscored = reward.score(replace(whole, after=with_unscored(whole.after, keep=0)))
    assert (unscored.value is None) == (Measurement.ANSWERS in decides)


@pytest.mark.parametrize("log_prob", [math.nan, -math.inf, math.inf])
def test_no_number_that_is_not_finite_comes_out(
    reward: Reward, decides: frozenset[Measurement], log_prob: float
) -> None:
    score = reward.score(attempt(exam(1, 2, -3.0, ALL), exam(1, 2, log_prob, ALL)))
    assert_plain(score)
    assert (score.value is None) == (Measurement.LIKELIHOOD in decides)


def test_better_after_is_more(case: Case, reward: Reward) -> None:
    values = [reward.score(attempt(exam(1, 4, -3.0, ALL), exam(n, 4, n - 6.0, ALL))).value for n in range(5)]
    assert all(value is not None for value in values)
    assert values == ([0.0, 0.0, 0.0, 0.0, 1.0] if case.all_or_nothing else sorted(set(values), key=float))


def test_scoring_twice_is_scoring_once(reward: Reward) -> None:
    tried = measured(ALL)
    first = reward.score(tried)
    assert reward.score(tried) == first
    assert tried == measured(ALL)
