"""Answers that are compared as they are written, and attempts at tasks that need no judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from arc_edits import write_edit

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    Adapted,
    Adapter,
    AnsweredQuestion,
    Attempt,
    AttemptStatus,
    Completion,
    FinishReason,
    GenerationRequest,
    Measurement,
    Prompt,
    ScoreRequest,
    SelfEdit,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.interfaces import Grader, Reward
from seal_lightning.domains.arc import ArcDirectives, ArcDomain, ArcTask, Demonstration, ExamViews, TestPair
from seal_lightning.domains.arc.grids import from_text
from seal_lightning.scoring.graders.agreement import exact_verdict
from seal_lightning.scoring.rewards import PartialCreditReward, SolvedReward

CORRECT, WRONG, UNSCORED = VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED


def answered(
    answer: str, *further: str, gold: tuple[str, ...] = ("12\n34",), num_invalid: int = 0, num_views: int = 3
) -> AnsweredQuestion:
    return AnsweredQuestion(
        question_id="q",
        question="1",
        gold_answers=gold,
        answer=answer,
        further_answers=further,
        exact=True,
        num_views=num_views,
        num_invalid=num_invalid,
    )


@pytest.mark.parametrize(
    ("question", "status", "reason"),
    [
        (answered("12\n34"), CORRECT, "first attempt"),
        (answered("12\n34", "9"), CORRECT, "first attempt"),
        (answered("9", "12\n34"), CORRECT, "further attempt"),
        (answered("9", "8", "12\n34"), CORRECT, "further attempt"),
        (answered("9", gold=("8", "9")), CORRECT, "first attempt"),
        (answered("9", "8"), WRONG, "no attempt is equal"),
        (answered("12\n34\n"), WRONG, "no attempt is equal"),
        (answered("12\n34", gold=("1234",)), WRONG, "no attempt is equal"),
        (answered("9", num_invalid=2), WRONG, "no attempt is equal"),
        (answered("", num_invalid=3), WRONG, "no answer could be read"),
        (answered("12\n34", gold=()), UNSCORED, "no gold answer"),
        (answered("", gold=(), num_invalid=3), UNSCORED, "no gold answer"),
    ],
)
def test_exact_verdict(question: AnsweredQuestion, status: VerdictStatus, reason: str) -> None:
    assert exact_verdict(question) == Verdict(question_id="q", status=status, reason=reason)


# --- attempts


def grid(text: str) -> Any:
    return from_text(text.replace("/", "\n"))


PAIRS = [("12/34", "21/43"), ("500", "005"), ("60", "06")]
TASK = ArcTask(
    task_id="t",
    demonstrations=tuple(Demonstration(input=grid(a), output=grid(b)) for a, b in PAIRS),
    tests=(TestPair(input=grid("78"), output=grid("87")), TestPair(input=grid("910"), output=grid("019"))),
)
UNPUBLISHED = replace(TASK, task_id="u", tests=(TASK.tests[0], TestPair(input=grid("4"), output=None)))
EDIT = write_edit(ArcDirectives(), "paper")
VIEWS = ExamViews(transforms=("identity", "flip_lr", "flip_ud"), num_orders=0, leave_one_out=False)


class NoGrader(Grader):
    """Fails the test when it is asked."""

    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        raise AssertionError("a grader was asked for what can only be compared")


class Copy(Adapter):
    pass


class Loop:
    """Adapts everything, to nothing."""

    max_results = None

    def adapt(self, plans: Sequence[Any], seeds: Sequence[int]) -> list[Adapted]:
        return [Adapted(adapter=Copy(), losses=(1.0,) * plan.num_steps, num_tokens=9, seconds=0.0) for plan in plans]


class Engine:
    """Answers from a table by prompt; only adapted copies know anything."""

    def __init__(self, answers: dict[Prompt, str]) -> None:
        self.answers = answers
        self.scored: list[ScoreRequest] = []

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        texts = [self.answers[r.prompt] if r.adapter else "?" for r in requests]
        assert all(r.sampling.temperature == 0 for r in requests)
        return [Completion(text=text, token_ids=(), finish_reason=FinishReason.STOP) for text in texts]

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        assert all(r.target for r in requests)
        self.scored += requests
        return [[-1.0 if r.adapter else -3.0] * len(r.target) for r in requests]


def attempt(
    task: ArcTask, wrong: Sequence[tuple[str, str]] = (), reward: Reward | None = None, answer: str = "1"
) -> tuple[Attempt, Engine]:
    """The edit tried, where the views named answer ``answer``, and the others are right (or say 4 where none is known)."""
    domain = ArcDomain(views=VIEWS)
    engine = Engine(
        {p.prompt: answer if (p.question_id, p.view) in wrong else p.target or "4" for p in domain.exam(task)}
    )
    runner = AttemptRunner(
        domain=domain,
        writer=None,  # type: ignore[arg-type]
        engine=engine,  # type: ignore[arg-type]
        inner_loop=Loop(),  # type: ignore[arg-type]
        grader=NoGrader(),
        reward=reward or SolvedReward(),
        seed=1,
    )
    (before,) = runner.examine([(task, None)], runner.reward.needs)
    trial = runner.trial(task, SelfEdit(task_id=task.task_id, edit_index=0, text=EDIT), 0, 0)
    (tried,) = runner.run([trial], before={task.task_id: before})
    return tried, engine


def test_exact_exam_solved_task() -> None:
    tried, engine = attempt(TASK)
    assert tried.status is AttemptStatus.SCORED
    assert tried.reward == 1.0
    assert tried.reward_breakdown == {"after": 1.0, "before": 0.0, "partial_credit": 1.0, "log_prob": -1.0}
    assert tried.after is not None
    assert [q.answer for q in tried.after.questions] == ["87", "019"]
    assert [(q.num_views, q.num_invalid, q.exact_match, q.f1) for q in tried.after.questions] == [(3, 0, 1.0, None)] * 2
    assert tried.before is not None
    assert [(q.answer, q.num_invalid, q.exact_match) for q in tried.before.questions] == [("", 3, 0.0)] * 2
    assert tried.before.num_invalid == 6
    # likelihood is asked of the identity views alone: two questions, before and after
    assert [r.target for r in engine.scored] == ["87", "019"] * 2


def test_exact_exam_needs_both_tests() -> None:
    tried, _ = attempt(TASK, wrong=[("t-1", view) for view in ("identity", "flip_lr", "flip_ud")], answer="111")
    assert tried.after is not None
    assert [q.verdict.status for q in tried.after.questions if q.verdict] == [CORRECT, WRONG]
    assert (tried.reward, tried.after.accuracy) == (0.0, 0.5)
    assert tried.after.partial_credit == pytest.approx((1 + 1 / 3) / 2)
    tried, _ = attempt(TASK, wrong=[("t-1", "identity"), ("t-1", "flip_lr")])
    assert tried.reward == 1.0  # the second attempt
    assert tried.after is not None
    assert tried.after.questions[1].further_answers == ("019",)


def test_partial_credit_as_the_reward() -> None:
    wrong = [("t-1", view) for view in ("identity", "flip_lr", "flip_ud")]
    tried, engine = attempt(TASK, wrong, PartialCreditReward(), answer="111")
    assert tried.reward == pytest.approx((1 + 1 / 3) / 2)
    assert tried.reward_breakdown == pytest.approx({"after": 2 / 3, "before": 0.0, "solved": 0.0})
    assert engine.scored == []


def test_exact_exam_without_likelihood() -> None:
    reward = SolvedReward(log_likelihood=False)
    assert reward.needs == {Measurement.ANSWERS}
    tried, engine = attempt(TASK, reward=reward)
    assert (tried.reward, engine.scored) == (1.0, [])
    assert tried.reward_breakdown == {"after": 1.0, "before": 0.0, "partial_credit": 1.0}


@pytest.mark.parametrize(
    ("reward", "value"), [(SolvedReward(), None), (PartialCreditReward(), 1.0)], ids=["solved", "cells"]
)
def test_exact_exam_unpublished_output_is_unscored(reward: Reward, value: float | None) -> None:
    """Whether the task is solved cannot be said; what is published still has its share of cells."""
    tried, engine = attempt(UNPUBLISHED, reward=reward)
    assert tried.reward == value
    assert tried.status is (AttemptStatus.UNSCORED if value is None else AttemptStatus.SCORED)
    assert tried.after is not None
    assert (tried.after.num_unscored, tried.after.accuracy, tried.after.solved) == (1, 1.0, None)
    assert tried.after.questions[1].answer == "4"
    assert tried.after.questions[1].exact_match is None
    assert {r.target for r in engine.scored} <= {"87"}


def test_exact_exam_without_outputs_is_unscored() -> None:
    task = replace(TASK, tests=(TestPair(input=grid("4"), output=None),))
    for reward in (SolvedReward(), PartialCreditReward()):
        tried, _ = attempt(task, reward=reward)
        assert (tried.reward, tried.status) == (None, AttemptStatus.UNSCORED)


def test_malformed_edit_is_counted_not_evaluated() -> None:
    domain = ArcDomain(views=VIEWS)
    runner = AttemptRunner(
        domain=domain,
        writer=None,  # type: ignore[arg-type]
        engine=None,  # type: ignore[arg-type]
        inner_loop=Loop(),  # type: ignore[arg-type]
        grader=NoGrader(),
        reward=PartialCreditReward(),
        seed=1,
    )
    runner.examine = lambda candidates, needs: [] if not candidates else pytest.fail("examined")  # type: ignore
    trial = runner.trial(TASK, SelfEdit(task_id="t", edit_index=3, text="{}"), 0, 0)
    (tried,) = runner.run([trial], before={})
    assert tried.status is AttemptStatus.MALFORMED
    assert tried.failure == "missing key: data_generation: Field required"
    assert (tried.reward, tried.after) == (None, None)


def test_exact_answers_skip_the_grader() -> None:
    """And each verdict reaches its question."""

    class Mixed(ArcDomain):
        def answered_questions(self, task: ArcTask, answers: Mapping[tuple[str, str], str]) -> list[AnsweredQuestion]:
            first, second = super().answered_questions(task, answers)
            return [replace(first, exact=False), second]

    class Judge(Grader):
        asked: ClassVar[list[str]] = []

        def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
            self.asked.extend(one.question_id for one in answered)
            return [Verdict(question_id=one.question_id, status=UNSCORED, reason="ill") for one in answered]

    domain = Mixed(views=VIEWS)
    runner = AttemptRunner(
        domain=domain,
        writer=None,  # type: ignore[arg-type]
        engine=Engine({p.prompt: p.target for p in domain.exam(TASK)}),  # type: ignore[arg-type]
        inner_loop=Loop(),  # type: ignore[arg-type]
        grader=Judge(),
        reward=SolvedReward(),
        seed=1,
    )
    exams = runner.examine([(TASK, Copy()), (TASK, None)], frozenset(Measurement))
    assert Judge.asked == ["t-0", "t-0"]
    statuses = [[q.verdict.status for q in exam.questions if q.verdict] for exam in exams]
    assert statuses == [[UNSCORED, CORRECT], [UNSCORED, WRONG]]
    assert [exam.solved for exam in exams] == [None, None]
