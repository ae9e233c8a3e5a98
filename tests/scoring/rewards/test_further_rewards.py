"""Rubric, own questions, retention and sums: what is asked for them, and what they make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from fakes import ToyDomain, ToyTask, ToyTasks
from test_rewards import attempt, graded, likely

from seal_lightning.core import (
    AuxiliaryExam,
    Completion,
    ExamScores,
    FinishReason,
    GenerationRequest,
    Judgement,
    JudgeQuestion,
    Measurement,
    Prompt,
    Rating,
    SamplingSpec,
    Task,
)
from seal_lightning.core.errors import ConfigError, DataError, RunError
from seal_lightning.core.interfaces import Engine, Judge, Reward
from seal_lightning.scoring.rewards import (
    AccuracyReward,
    GainReward,
    LikelihoodReward,
    OwnQuestionsReward,
    RetentionReward,
    RubricReward,
    WeightedSum,
    WeightedTerm,
)
from seal_lightning.scoring.rewards.own_questions_reward import OwnQuestionsExam
from seal_lightning.scoring.rewards.rubric import CRITERIA


class Reader(Judge):
    """Decides by what stands in the text; keeps what it was asked."""

    def __init__(self, decisions: Mapping[str, Judgement]) -> None:
        self.decisions = decisions
        self.asked: list[list[JudgeQuestion]] = []

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        self.asked.append(list(questions))
        return [self.decisions[dict(question.material)["Text"]] for question in questions]


# --- rubric


def test_rubric_asks_once_and_sums_the_marks() -> None:
    judge = Reader({"good": Judgement(option="5"), "poor": Judgement(option="2")})
    reward = RubricReward(judge)
    good, poor = reward.rate(["passage one", "passage two"], ["good", "poor"])
    (asked,) = judge.asked
    assert len(asked) == 2 * len(CRITERIA)
    assert dict(asked[0].material) == {"Passage": "passage one", "Text": "good"}
    assert [q.options for q in asked] == [("1", "2", "3", "4", "5")] * 8
    assert all(
        name in q.instruction and CRITERIA[name] in q.instruction for name, q in zip(CRITERIA, asked, strict=False)
    )
    for rating, total in ((good, 20.0), (poor, 8.0)):
        score = reward.score(replace(attempt(None, None), ratings={"rubric": rating}))
        assert score.value == total
        assert score.breakdown == dict.fromkeys(CRITERIA, total / 4)


def test_rubric_expected_mark_is_the_mean() -> None:
    judge = Reader({"t": Judgement(option="5", probabilities=(0.0, 0.0, 0.0, 0.25, 0.75))})
    for expected, mark in ((True, 4.75), (False, 5.0)):
        reward = RubricReward(judge, criteria={"depth": "how deep"}, expected=expected)
        assert reward.rate(["p"], ["t"])[0].marks == {"depth": pytest.approx(mark)}


def test_rubric_undecided_criterion_is_unscored() -> None:
    judge = Reader({"t": Judgement(option=None, reason="down")})
    reward = RubricReward(judge, criteria={"length": "how long", "form": "how well put"})
    (rating,) = reward.rate(["p"], ["t"])
    score = reward.score(replace(attempt(None, None), ratings={"rubric": rating}))
    assert score.value is None
    assert score.reason == "judge undecided: length: down"
    partly = Rating(marks={"length": 1.0}, failure="judge undecided: form: down")
    assert reward.score(replace(attempt(None, None), ratings={"rubric": partly})).value is None


def test_rubric_cuts_long_texts() -> None:
    judge = Reader({"long": Judgement(option="1")})
    RubricReward(judge, criteria={"a": "b"}, max_chars=4).rate(["0123456789"], ["long text"])
    assert dict(judge.asked[0][0].material) == {"Passage": "0123", "Text": "long"}

    class Mute(Reader):
        def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
            return []

    with pytest.raises(RunError, match="gave 0 judgements on 4 questions"):
        RubricReward(Mute({})).rate(["p"], ["t"])


@pytest.mark.parametrize("settings", [{"criteria": {}}, {"criteria": {"length": " "}}, {"max_chars": 0}])
def test_rubric_settings_out_of_bounds(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="RubricReward"):
        RubricReward(Reader({}), **settings)  # type: ignore[arg-type]


# --- own questions


class AskingDomain(ToyDomain):
    """Its questions are lines "question?answer"."""

    def question_prompt(self, task: ToyTask, num_questions: int) -> Prompt:
        return f"{num_questions} on {task.key}"

    def question_stop(self) -> tuple[str, ...]:
        return ("END",)

    def parse_questions(self, task: ToyTask, text: str) -> Sequence[tuple[str, str]]:
        return [(q, a) for line in text.split("\n") if "?" in line for q, a in [line.split("?", 1)]]

    def with_questions(self, task: ToyTask, questions: Sequence[tuple[str, str]]) -> Task:
        return replace(task, value="/".join(answer for _, answer in questions))


class Scripted(Engine):
    """Writes given texts, call by call; keeps the requests."""

    def __init__(self, *texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.asked: list[Sequence[GenerationRequest]] = []

    def bind(self, language_model: object) -> None: ...

    def score(self, requests: object) -> Sequence[Sequence[float]]:
        raise AssertionError

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        self.asked.append(requests)
        return [Completion(text=t, token_ids=(), finish_reason=FinishReason.STOP) for t in self.texts.pop(0)]


def asking(engine: Engine, num_questions: int = 3, retries: int = 2) -> OwnQuestionsExam:
    reward = OwnQuestionsReward(
        num_questions=num_questions, retries=retries, sampling=SamplingSpec(max_new_tokens=9, stop=("STOP",))
    )
    reward.questions.bind(AskingDomain(), engine)
    return reward.questions


def test_own_questions_retries_with_another_seed() -> None:
    engine = Scripted(["a?1\nb?2\nc?3\nd?4", "A  x?1", "none"], ["a X?9\ny?2\nw?1", "nothing"], ["z?3", ""])
    questions = asking(engine)
    tasks = ToyTasks(3).load()
    papers = questions.build(tasks, {task.task_id: i for i, task in enumerate(tasks)})
    assert [paper.questions for paper in papers] == [
        (("a", "1"), ("b", "2"), ("c", "3")),
        (("A  x", "1"), ("y", "2"), ("z", "3")),
        (),
    ]
    assert papers[2].failure == "no own questions: 3 texts had no valid question"
    assert papers[2].tasks == ()
    assert papers[0].tasks[0].value == "1/2/3"  # type: ignore[attr-defined]
    first, second, third = engine.asked
    assert [request.prompt for request in first] == [f"3 on {task.key}" for task in tasks]  # type: ignore[attr-defined]
    assert [request.seed for request in first] == [0, 1, 2]
    assert len({request.seed for request in (*first, *second, *third)}) == 7
    assert first[0].sampling.stop == ("STOP", "END")
    assert first[0].adapter is None
    assert questions.rebuild(tasks[0], papers[0].questions) == papers[0]


def test_own_questions_replace_the_gold_ones() -> None:
    exam = AuxiliaryExam(before=likely(-5.0), after=likely(-2.0, -1.0), questions=(("q", "a"), ("r", "b")))
    tried = replace(attempt(likely(-9.0), likely(-8.0)), auxiliary_exams={"own questions": exam})
    score = OwnQuestionsReward().score(tried)
    assert score.value == -1.5
    assert score.breakdown == {"after": -1.5, "before": -5.0, "num_questions": 2.0}
    assert GainReward(OwnQuestionsReward()).score(tried).value == 3.5
    assert OwnQuestionsReward(GainReward(LikelihoodReward())).score(tried).value == 3.5
    assert OwnQuestionsReward().needs == frozenset()
    assert OwnQuestionsReward(AccuracyReward()).exam_builders["own questions"].needs == {Measurement.ANSWERS}


def test_own_questions_missing_are_unscored_with_reason() -> None:
    failed = AuxiliaryExam(failure="no own questions: 3 texts had none")
    score = OwnQuestionsReward().score(replace(attempt(None, None), auxiliary_exams={"own questions": failed}))
    assert (score.value, score.reason) == (None, "no own questions: 3 texts had none")


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnQuestionsReward(num_questions=0),
        lambda: OwnQuestionsReward(num_questions=101),
        lambda: OwnQuestionsReward(retries=-1),
        lambda: OwnQuestionsReward(OwnQuestionsReward(name="inner")),
        lambda: OwnQuestionsReward(RubricReward(Reader({}))),
        lambda: OwnQuestionsReward(RetentionReward(ToyTasks(1))),
    ],
)
def test_own_questions_settings_out_of_bounds(make: object) -> None:
    with pytest.raises(ConfigError, match="OwnQuestionsReward"):
        make()  # type: ignore[operator]


def test_own_questions_needs_a_domain_with_questions() -> None:
    questions = OwnQuestionsReward().questions
    questions.bind(ToyDomain(), Scripted([""]))
    with pytest.raises(ConfigError, match="ToyDomain does not support the policy's own questions"):
        questions.build(ToyTasks(1).load(), {"stone-0": 1})


# --- retention


def probed(before: ExamScores | None, after: ExamScores | None) -> dict[str, AuxiliaryExam]:
    return {"probe": AuxiliaryExam(before=before, after=after)}


@pytest.mark.parametrize(
    ("before", "after", "weight", "value", "forgotten"),
    [
        (likely(-2.0), likely(-3.0, -4.0), 1.0, 1.5, 1.5),
        (likely(-2.0), likely(-3.0, -4.0), 2.0, 0.0, 1.5),
        (likely(-2.0), likely(-3.0), 0.0, 3.0, 1.0),
        (likely(-2.0), likely(-1.0), 1.0, 3.0, 0.0),
        (likely(-2.0), None, 1.0, None, None),
        (likely(-2.0), likely(float("inf")), 1.0, None, None),
        (None, likely(-2.0), 1.0, None, None),
    ],
)
def test_retention_subtracts_forgetting(before, after, weight, value, forgotten) -> None:
    tried = replace(attempt(likely(-4.0), likely(-1.0)), auxiliary_exams=probed(before, after))
    score = RetentionReward(ToyTasks(1), weight=weight).score(tried)
    assert score.value == (value if value is None else pytest.approx(value))
    assert score.breakdown.get("forgotten") == forgotten
    assert score.breakdown["base"] == 3.0
    assert (score.breakdown["after"], score.breakdown["before"]) == (-1.0, -4.0)


def test_retention_probe_is_not_trained_on() -> None:
    reward = RetentionReward(ToyTasks(9, offset=4), max_probe_tasks=3)
    probe = reward.probe
    probe.bind(ToyDomain(), Scripted())
    first, second = probe.build(ToyTasks(2).load(), {})
    assert first is second
    assert [task.task_id for task in first.tasks] == ["stone-4", "stone-5", "stone-6"]
    with pytest.raises(DataError, match=r"1 of the probe's 3 tasks .* for instance stone-4"):
        probe.check(ToyTasks(5).load())


def test_retention_probe_needs_questions() -> None:
    class Silent(ToyDomain):
        def exam(self, task: ToyTask) -> tuple[()]:
            return ()

    with pytest.raises(DataError, match="has no question to ask"):
        RetentionReward(ToyTasks(2)).probe.bind(Silent(), Scripted())


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"weight": float("inf")}, {"max_probe_tasks": 0}])
def test_retention_settings_out_of_bounds(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="RetentionReward"):
        RetentionReward(ToyTasks(1), **settings)  # type: ignore[arg-type]


# --- sums


def term(weight: float, reward: Reward, name: str | None = None) -> WeightedTerm:
    return WeightedTerm(weight=weight, reward=reward, name=name)


def test_weighted_sum_names_terms_and_parts() -> None:
    scores = replace(graded("cw"), questions=tuple(replace(q, log_prob=-2.0) for q in graded("cw").questions))
    reward = WeightedSum([term(0.5, LikelihoodReward()), term(3.0, AccuracyReward(), "right")])
    score = reward.score(attempt(likely(-4.0), scores))
    assert reward.needs == {Measurement.LIKELIHOOD, Measurement.ANSWERS}
    assert score.value == 0.5 * -2.0 + 3.0 * 0.5
    assert score.breakdown == {
        "LikelihoodReward": -2.0,
        "LikelihoodReward/after": -2.0,
        "LikelihoodReward/before": -4.0,
        "right": 0.5,
        "right/after": 0.5,
        "right/num_unscored": 0.0,
        "after": 0.5,
    }
    missing = reward.score(attempt(None, likely(-1.0)))
    assert (missing.value, missing.reason) == (None, "right could not be scored")


def test_gain_of_a_sum_is_the_sum_of_gains() -> None:
    exam = AuxiliaryExam(before=likely(-5.0), after=likely(-2.0))
    tried = replace(attempt(likely(-4.0), likely(-1.0)), auxiliary_exams={"own questions": exam})
    terms = [(2.0, LikelihoodReward()), (0.5, OwnQuestionsReward())]
    gain_of_sum = GainReward(WeightedSum([term(weight, reward) for weight, reward in terms]))
    sum_of_gains = WeightedSum([term(weight, GainReward(reward), str(weight)) for weight, reward in terms])
    assert gain_of_sum.score(tried).value == sum_of_gains.score(tried).value == 7.5
    for reward in (gain_of_sum, sum_of_gains):
        parts = reward.score(tried).breakdown
        assert parts["after"] - parts["before"] == 7.5  # what the filter Improves looks at
        assert list(reward.exam_builders) == ["own questions"]


def test_weighted_sum_without_a_rating_is_unscored() -> None:
    reward = WeightedSum([term(1.0, LikelihoodReward()), term(0.1, RubricReward(Reader({})))])
    down = {"rubric": Rating(failure="judge undecided: length: down")}
    score = reward.score(replace(attempt(None, likely(-1.0)), ratings=down))
    assert (score.value, score.reason) == (None, "judge undecided: length: down")
    assert list(reward.raters) == ["rubric"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedSum([]), "not all 0"),
        (lambda: WeightedSum([term(0.0, LikelihoodReward())]), "not all 0"),
        (lambda: WeightedSum([term(float("nan"), LikelihoodReward())]), "finite"),
        (lambda: WeightedSum([term(1.0, LikelihoodReward()), term(1.0, LikelihoodReward())]), "name"),
        (
            lambda: WeightedSum([term(1.0, OwnQuestionsReward(), "a"), term(1.0, OwnQuestionsReward(), "b")]),
            "two parts are named 'own questions'",
        ),
        (
            lambda: RetentionReward(ToyTasks(1), RetentionReward(ToyTasks(1))),
            "two parts are named 'probe'",
        ),
        (lambda: GainReward(RubricReward(Reader({}))), "GainReward: the base RubricReward rates edits"),
        (lambda: GainReward(WeightedSum([term(1.0, RubricReward(Reader({})))])), "combine it with the gain"),
    ],
)
def test_combinations_refuse_invalid_parts(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
