"""What every reward must do; a new one needs a line in ``REWARDS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from fakes import ToyTasks
from implementations import implementations

from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    AuxiliaryExam,
    ExamScores,
    Judgement,
    JudgeQuestion,
    Measurement,
    QuestionScore,
    Rating,
    RewardScore,
    SelfEdit,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.interfaces import Judge, Reward
from seal_lightning.scoring.rewards import (
    AccuracyReward,
    FunctionReward,
    GainReward,
    LikelihoodReward,
    OwnQuestionsReward,
    PartialCreditReward,
    RetentionReward,
    RubricReward,
    SolvedReward,
    WeightedSum,
    WeightedTerm,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reward, and in what it is not like the others."""

    make: Callable[[], Reward]
    for_the_breakdown: frozenset[Measurement] = frozenset()
    """What it asks for without its value depending on it."""
    all_or_nothing: bool = False
    """Whether every question counts: then one unscored makes it None, and some right are worth no more than none."""
    reads_only: bool = False
    """Whether it looks at the edit alone, and at nothing that was measured."""


class Strict(Judge):
    """Always the lowest."""

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        return [Judgement(option=question.options[0]) for question in questions]


def weighted(*terms: tuple[float, Reward]) -> WeightedSum:
    return WeightedSum([WeightedTerm(weight=w, reward=r, name=f"term {i}") for i, (w, r) in enumerate(terms)])


REWARDS: dict[str, Case] = {
    "accuracy": Case(make=AccuracyReward),
    "likelihood": Case(make=LikelihoodReward),
    "function": Case(make=lambda: FunctionReward(lambda attempt: attempt.after.accuracy)),
    "solved": Case(make=SolvedReward, for_the_breakdown=frozenset({Measurement.LIKELIHOOD}), all_or_nothing=True),
    "solved, answers alone": Case(make=lambda: SolvedReward(log_likelihood=False), all_or_nothing=True),
    "partial credit": Case(make=PartialCreditReward),
    "gain in accuracy": Case(make=lambda: GainReward(AccuracyReward())),
    "gain in likelihood": Case(make=lambda: GainReward(LikelihoodReward())),
    "gain in partial credit": Case(make=lambda: GainReward(PartialCreditReward())),
    "rubric": Case(make=lambda: RubricReward(Strict()), reads_only=True),
    "own questions": Case(make=OwnQuestionsReward),
    "accuracy on own questions": Case(make=lambda: OwnQuestionsReward(AccuracyReward())),
    "gain on own questions": Case(make=lambda: GainReward(OwnQuestionsReward())),
    "retention": Case(make=lambda: RetentionReward(ToyTasks(2))),
    "gain in retention": Case(make=lambda: GainReward(RetentionReward(ToyTasks(2), AccuracyReward()))),
    "sum": Case(make=lambda: weighted((2.0, LikelihoodReward()), (0.5, AccuracyReward()))),
    "sum of gains": Case(
        make=lambda: weighted((1.0, GainReward(LikelihoodReward())), (1.0, GainReward(AccuracyReward())))
    ),
    "gain of a sum": Case(make=lambda: GainReward(weighted((1.0, LikelihoodReward()), (3.0, OwnQuestionsReward())))),
    "sum of all kinds": Case(
        make=lambda: weighted(
            (1.0, RetentionReward(ToyTasks(2))),
            (0.1, RubricReward(Strict())),
            (1.0, OwnQuestionsReward(AccuracyReward())),
        )
    ),
}


def test_every_reward_is_registered() -> None:
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
    return asked_for(reward) - case.for_the_breakdown


def asked_for(reward: Reward) -> frozenset[Measurement]:
    """Of any exam."""
    return reward.needs.union(*(examiner.needs for examiner in reward.exam_builders.values()))


def score(reward: Reward, tried: Attempt) -> RewardScore:
    """With all further exams that it asks for gone as the task's own, and the edit rated."""
    further = {name: AuxiliaryExam(before=tried.before, after=tried.after) for name in reward.exam_builders}
    ratings = {name: Rating(marks=dict.fromkeys(rater.criteria, 3.0)) for name, rater in reward.raters.items()}  # type: ignore[attr-defined]
    return reward.score(replace(tried, auxiliary_exams=further, ratings=ratings))


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


def test_reward_has_needs(case: Case, reward: Reward) -> None:
    assert isinstance(reward.needs, frozenset)
    assert all(isinstance(need, Measurement) for need in asked_for(reward))
    assert bool(asked_for(reward)) != case.reads_only
    assert asked_for(reward) or reward.raters


def test_reward_parts_are_the_same_each_time(reward: Reward) -> None:
    """It is bound once."""
    for named, again in ((reward.exam_builders, reward.exam_builders), (reward.raters, reward.raters)):
        assert named == again
        assert all(named[name] is again[name] for name in named)


@pytest.mark.parametrize("without", ["auxiliary_exams", "ratings"])
def test_reward_is_none_without_auxiliary_results(reward: Reward, without: str) -> None:
    asked = reward.exam_builders if without == "auxiliary_exams" else reward.raters
    scored = reward.score(attempt(exam(1, 4, -3.0, ALL), exam(3, 4, -1.0, ALL)))
    assert_plain(scored)
    assert (scored.value is None) == bool(reward.exam_builders or reward.raters)
    if asked:
        assert score(reward, measured(ALL)).value is not None


def test_reward_needs_are_sufficient(reward: Reward) -> None:
    """With that alone the score is a finite number, and the same as with everything measured (which may be shown)."""
    enough, with_all = score(reward, measured(asked_for(reward))), score(reward, measured(ALL))
    assert_plain(enough)
    assert enough.value is not None
    assert enough.value == with_all.value
    assert enough.breakdown.items() <= with_all.breakdown.items()


@pytest.mark.parametrize("without", Measurement)
def test_reward_is_none_without_its_needs(
    reward: Reward, decides: frozenset[Measurement], without: Measurement
) -> None:
    scored = score(reward, measured(ALL - {without}))
    assert_plain(scored)
    assert (scored.value is None) == (without in decides)


@pytest.mark.parametrize("before", [None, ExamScores(questions=()), exam(1, 2, -2.0, ALL)])
@pytest.mark.parametrize("after", [None, ExamScores(questions=())])
def test_reward_is_none_without_an_exam_after(
    case: Case, reward: Reward, before: ExamScores | None, after: ExamScores | None
) -> None:
    scored = score(reward, attempt(before, after))
    assert (scored.value is None) != case.reads_only
    assert_plain(scored)


@pytest.mark.parametrize("before", [None, ExamScores(questions=()), exam(0, 2, math.nan, ALL)])
def test_reward_accepts_an_empty_exam_before(reward: Reward, before: ExamScores | None) -> None:
    assert_plain(score(reward, attempt(before, exam(1, 2, -2.0, ALL))))


def test_reward_unscored_answers_are_not_wrong(case: Case, reward: Reward, decides: frozenset[Measurement]) -> None:
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

    whole = attempt(exam(1, 3, -3.0, ALL), exam(3, 3, -1.0, ALL))
    one_more = attempt(exam(1, 4, -3.0, ALL), with_unscored(exam(3, 4, -1.0, ALL), keep=3))
    assert score(reward, one_more).value == (None if case.all_or_nothing else score(reward, whole).value)
    unscored = score(reward, replace(whole, after=with_unscored(whole.after, keep=0)))
    assert (unscored.value is None) == (Measurement.ANSWERS in decides)


@pytest.mark.parametrize("log_prob", [math.nan, -math.inf, math.inf])
def test_reward_is_always_finite(reward: Reward, decides: frozenset[Measurement], log_prob: float) -> None:
    scored = score(reward, attempt(exam(1, 2, -3.0, ALL), exam(1, 2, log_prob, ALL)))
    assert_plain(scored)
    assert (scored.value is None) == (Measurement.LIKELIHOOD in decides)


def test_reward_grows_with_better_answers(case: Case, reward: Reward) -> None:
    values = [score(reward, attempt(exam(1, 4, -3.0, ALL), exam(n, 4, n - 6.0, ALL))).value for n in range(5)]
    assert all(value is not None for value in values)
    if case.reads_only:
        assert len(set(values)) == 1
    else:
        assert values == ([0.0, 0.0, 0.0, 0.0, 1.0] if case.all_or_nothing else sorted(set(values), key=float))


def test_reward_is_deterministic(reward: Reward) -> None:
    tried = measured(ALL)
    first = score(reward, tried)
    assert score(reward, tried) == first
    assert tried == measured(ALL)
