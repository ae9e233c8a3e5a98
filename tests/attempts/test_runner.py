"""AttemptRunner: only what the reward needs is computed, and auxiliary exams are reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from asking import AskingDomain, LengthJudge
from fakes import ToyTasks

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Attempt,
    AttemptStatus,
    Diverged,
    GenerationRequest,
    OptimizerSpec,
    SamplingSpec,
    SelfEdit,
    Task,
    Trial,
)
from seal_lightning.core.errors import RunError
from seal_lightning.core.interfaces import Reward
from seal_lightning.models.pretrained import Pretrained
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
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import from_plain, to_plain
from seal_lightning.training.module import SealModule


class Counted:
    """How often each part was asked, and for how much."""

    def __init__(self, runner: AttemptRunner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        for holder, name in (
            (runner.engine, "generate"),
            (runner.engine, "score"),
            (runner.inner_loop, "adapt"),
            (runner.grader, "grade"),
        ):
            monkeypatch.setattr(holder, name, self._counting(name, getattr(holder, name)))

    def _counting(self, name: str, made: object) -> object:
        def call(items: Sequence[object], *rest: object) -> object:
            self.calls[name] += 1
            self.items[name] += len(items)
            return made(items, *rest)  # type: ignore[operator]

        return call


@pytest.fixture
def make(tiny_folder: Path):
    def made(reward: Reward) -> AttemptRunner:
        module = SealModule(
            domain=AskingDomain(optimizer=OptimizerSpec(num_epochs=1)),
            pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
            sampling=SamplingSpec(max_new_tokens=5),
            reward=reward,
        )
        module.configure_model()
        return module.runner

    return made


def own(base: Reward | None = None) -> OwnQuestionsReward:
    return OwnQuestionsReward(base, num_questions=1, retries=0, sampling=SamplingSpec(max_new_tokens=4))


def trials(runner: AttemptRunner, tasks: Sequence[Task], *texts: str) -> list[Trial]:
    return [
        runner.trial(task, SelfEdit(task_id=task.task_id, edit_index=i, text=text), 0, 0)
        for task in tasks
        for i, text in enumerate(texts)
    ]


def tried(runner: AttemptRunner, tasks: Sequence[Task], *texts: str) -> list[Attempt]:
    """As the loop does it."""
    before, auxiliary = runner.before(tasks), runner.auxiliary_exams(tasks, 0)
    return runner.run(trials(runner, tasks, *texts), before=before, auxiliary=auxiliary)


def test_runner_neither_adapts_nor_examines_for_a_rubric(make, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = LengthJudge()
    runner = make(RubricReward(judge))
    counted = Counted(runner, monkeypatch)
    good, same, malformed, unjudged = tried(
        runner, ToyTasks(1).load(), "a text of words", "a text of words", " ", "unjudged"
    )
    assert counted.calls == {}
    assert judge.asked == [8]  # each different edit once, all in one call, none that is malformed
    assert (good.status, good.reward) == (AttemptStatus.SCORED, 16.0)
    assert same.reward == good.reward
    assert good.reward_breakdown == dict.fromkeys(("length", "diversity", "quality", "correctness"), 4.0)
    assert (good.before, good.after, good.plan) == (None, None, None)
    assert (malformed.status, malformed.failure_kind, malformed.ratings) == (AttemptStatus.MALFORMED, "empty", {})
    assert (unjudged.status, unjudged.reward) == (AttemptStatus.UNSCORED, None)
    assert unjudged.failure == "judge undecided: length: down"


@pytest.mark.parametrize(
    ("reward", "calls"),
    [
        (LikelihoodReward(), {"score": 2, "adapt": 1}),
        (AccuracyReward(), {"generate": 2, "adapt": 1, "grade": 2}),
        (GainReward(AccuracyReward()), {"generate": 2, "adapt": 1, "grade": 2}),
        (own(), {"generate": 1, "score": 2, "adapt": 1}),
        (own(AccuracyReward()), {"generate": 3, "adapt": 1, "grade": 2}),
        (RetentionReward(ToyTasks(2, offset=20)), {"score": 3, "adapt": 1}),
        (
            RetentionReward(ToyTasks(2, offset=20), AccuracyReward()),
            {"generate": 2, "score": 2, "adapt": 1, "grade": 2},
        ),
        (
            WeightedSum(
                [WeightedTerm(weight=1.0, reward=LikelihoodReward()), WeightedTerm(weight=1.0, reward=AccuracyReward())]
            ),
            {"generate": 2, "score": 2, "adapt": 1, "grade": 2},
        ),
    ],
)
def test_runner_does_only_what_the_reward_needs(
    make, monkeypatch: pytest.MonkeyPatch, reward: Reward, calls: dict[str, int]
) -> None:
    runner = make(reward)
    counted = Counted(runner, monkeypatch)
    made = tried(runner, ToyTasks(1).load(), "one", "two")
    assert counted.calls == calls
    assert all(attempt.status is AttemptStatus.SCORED for attempt in made)


def test_auxiliary_exams_reuse_stored_questions(make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(own())
    tasks = ToyTasks(3).load()
    made = tried(runner, tasks, "one", "two")
    assert [a.status for a in made] == [AttemptStatus.SCORED] * 2 + [AttemptStatus.UNSCORED] * 2 + [
        AttemptStatus.SCORED
    ] * 2
    first, odd = made[0].auxiliary_exams["own questions"], made[2].auxiliary_exams["own questions"]
    assert first.questions == made[1].auxiliary_exams["own questions"].questions
    assert first.before == made[1].auxiliary_exams["own questions"].before
    assert first.after != made[1].auxiliary_exams["own questions"].after
    assert (made[0].before, made[0].after) == (None, None), "no gold question was looked at"
    assert made[2].failure == odd.failure == "no own questions: 1 texts had no valid question"
    assert made[2].plan is None, "nothing was trained for it"
    stored = from_plain(to_plain(made, Attempt), Attempt)
    assert stored == made

    asked: list[GenerationRequest] = []
    generate = runner.engine.generate
    with monkeypatch.context() as heard:
        heard.setattr(runner.engine, "generate", lambda requests: asked.extend(requests) or generate(requests))
        for round_index in (0, 1):
            runner.auxiliary_exams(tasks, round_index)
    assert len({request.seed for request in asked} | {a.edit.seed for a in made}) == 6 + 1, "seeds of their own"

    counted = Counted(runner, monkeypatch)
    again = runner.auxiliary_exams(tasks, 0, stored)
    assert counted.calls == {}
    assert again == runner.auxiliary_exams(tasks, 0), "written anew they are the same: seeds come from names"
    assert runner.auxiliary_exams(tasks, 1)["stone-0"] != again["stone-0"], "each round asks for itself"
    assert runner.auxiliary_exams(tasks[:1], 0)["stone-0"] == again["stone-0"]


def test_attempt_without_optional_fields_is_read(make) -> None:
    (made,) = tried(make(LikelihoodReward()), ToyTasks(1).load(), "one")
    (plain,) = to_plain([made], Attempt)
    assert isinstance(plain, dict)
    del plain["auxiliary_exams"], plain["ratings"]
    assert from_plain([plain], Attempt) == [made]


def test_auxiliary_exams_run_the_probe_once_unadapted(make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make(RetentionReward(ToyTasks(2, offset=20)))
    tasks = ToyTasks(2).load()
    counted = Counted(runner, monkeypatch)
    auxiliary = runner.auxiliary_exams(tasks[:1], 0)
    assert counted.items == {"score": 2}
    made = runner.run(trials(runner, tasks[:1], "one"), before=runner.before(tasks[:1]), auxiliary=auxiliary)
    auxiliary = runner.auxiliary_exams(tasks[1:], 0, made)
    assert counted.items["score"] == 2 + 1 + (1 + 2)
    exam = made[0].auxiliary_exams["probe"]
    assert auxiliary["stone-1"]["probe"].before == exam.before
    assert [q.question_id for q in exam.after.questions] == ["stone-20/colour", "stone-21/colour"]
    parts = made[0].reward_breakdown
    assert parts["forgotten"] == max(0.0, parts["probe_before"] - parts["probe_after"])
    assert made[0].reward == pytest.approx(parts["after"] - parts["before"] - parts["forgotten"])


def test_runner_prepares_missing_auxiliary_exams(make) -> None:
    """Commands that try edits need not know of them."""
    runner = make(own())
    tasks = ToyTasks(2).load()
    timeless = {"adapt_seconds": 0.0, "examine_seconds": 0.0}
    expected, found = tried(runner, tasks, "one"), runner.run(trials(runner, tasks, "one"))
    assert [replace(a, **timeless) for a in found] == [replace(a, **timeless) for a in expected]


def test_runner_does_not_rate_diverged_edits(make, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = LengthJudge()
    terms = [WeightedTerm(weight=1.0, reward=LikelihoodReward()), WeightedTerm(weight=0.1, reward=RubricReward(judge))]
    runner = make(WeightedSum(terms))
    task = ToyTasks(1).load()
    adapt = runner.inner_loop.adapt

    def failing(plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> list[Adapted | Diverged]:
        return [adapt(plans, seeds)[0], Diverged(reason="loss nan", step=1, seconds=0.5)]

    monkeypatch.setattr(runner.inner_loop, "adapt", failing)
    made = tried(runner, task, "one", "two")
    assert [a.status for a in made] == [AttemptStatus.SCORED, AttemptStatus.DIVERGED]
    assert judge.asked == [4]
    parts = made[0].reward_breakdown
    assert made[0].reward == pytest.approx(parts["LikelihoodReward"] + 0.1 * parts["RubricReward"])


def test_run_skips_stored_attempts_and_keeps_the_order(make, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tasks = make(LikelihoodReward()), ToyTasks(2).load()
    wanted = trials(runner, tasks, "one", "two")
    store = AttemptStore(None)
    first = runner.run(wanted, store)
    assert [a.attempt_id for a in first] == [trial.attempt_id for trial in wanted]
    counted, heard = Counted(runner, monkeypatch), []
    assert runner.run(wanted[::-1], store, on_attempt=heard.append) == first[::-1]
    assert (counted.calls, heard) == ({}, [])


@pytest.mark.parametrize(("only_missing", "sizes"), [(False, [2]), (True, [1])])
def test_run_recomputes_a_partial_chunk_by_default(
    make, monkeypatch: pytest.MonkeyPatch, only_missing: bool, sizes: list[int]
) -> None:
    runner = make(LikelihoodReward())
    wanted = trials(runner, ToyTasks(2).load(), "one", "two")
    whole = runner.run(wanted, candidates_per_call=2)
    store, heard, calls = AttemptStore(None), [], []
    for attempt in (whole[0], *whole[2:]):
        store.add(attempt)
    adapt = runner.inner_loop.adapt
    monkeypatch.setattr(runner.inner_loop, "adapt", lambda p, s: calls.append(len(p)) or adapt(p, s))
    made = runner.run(wanted, store, candidates_per_call=2, only_missing=only_missing, on_attempt=heard.append)
    assert calls == sizes
    assert [a.attempt_id for a in heard] == [whole[1].attempt_id]
    assert [a.reward for a in made] == pytest.approx([a.reward for a in whole], rel=1e-12)


def test_run_refuses_a_stored_attempt_of_another_edit(make) -> None:
    runner, tasks, store = make(LikelihoodReward()), ToyTasks(1).load(), AttemptStore(None)
    runner.run(trials(runner, tasks, "one"), store)
    with pytest.raises(RunError, match="another seed or edit"):
        runner.run(trials(runner, tasks, "two"), store)


def test_run_uses_a_trial_s_own_id_and_plan(make) -> None:
    runner, (task,) = make(LikelihoodReward()), ToyTasks(1).load()
    (trial,) = trials(runner, [task], "one")
    plan = replace(runner.plan(task, trial.edit), optimizer=OptimizerSpec(num_epochs=3))
    (made,) = runner.run([replace(trial, custom_id="sweep-1", plan=plan)])
    assert (made.attempt_id, made.plan.num_steps) == ("sweep-1", plan.num_steps)
