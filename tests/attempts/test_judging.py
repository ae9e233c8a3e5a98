"""Background judging: one chunk is judged while the next is adapted, and the attempts are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ToyDomain, ToyTask, ToyTasks
from lightning.pytorch import Trainer

from seal_lightning.attempts import AttemptRunner
from seal_lightning.attempts.judging import BackgroundCall
from seal_lightning.core import (
    AnsweredQuestion,
    Attempt,
    Judgement,
    JudgeQuestion,
    OptimizerSpec,
    SamplingSpec,
    Verdict,
)
from seal_lightning.core.errors import RunError, StopRequested
from seal_lightning.core.interfaces import Grader, Judge, Reward
from seal_lightning.distributed import interruption
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import AccuracyReward, LikelihoodReward, RubricReward, WeightedSum, WeightedTerm
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import TaskBatch
from seal_lightning.training.loop import SelfEditLoop
from seal_lightning.training.module import SealModule

WAIT_S = 20.0
TIMELESS = {"adapt_seconds": 0.0, "examine_seconds": 0.0}


class Domain(ToyDomain):
    def context_text(self, task: ToyTask) -> str:
        return task.context


class Remote(Judge):
    """Answers call by call, when it is let; says from which thread it was asked."""

    in_background = True

    def __init__(self, events: list[str] | None = None) -> None:
        self.events = [] if events is None else events
        self.threads: list[threading.Thread] = []
        self.may_answer: Callable[[int], None] = lambda call: None

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        call = len(self.threads)
        self.threads.append(threading.current_thread())
        self.events.append(f"asked {call}")
        self.may_answer(call)
        self.events.append(f"answered {call}")
        return [Judgement(option=q.options[len(dict(q.material)["Text"]) % 5]) for q in questions]


class RemoteGrader(Grader):
    """The local rules, from elsewhere."""

    in_background = True

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        self.threads.append(threading.current_thread())
        return LocalRules().grade(answered)


def sum_of(judge: Judge) -> WeightedSum:
    rubric = RubricReward(judge, criteria={"length": "how long"})
    return WeightedSum(
        [WeightedTerm(weight=1.0, reward=LikelihoodReward()), WeightedTerm(weight=0.1, reward=rubric)],
    )


@pytest.fixture
def make(tiny_folder: Path):
    def made(reward: Reward, grader: Grader | None = None) -> SelfEditLoop:
        module = SealModule(
            domain=Domain(optimizer=OptimizerSpec(num_epochs=1)),
            pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
            sampling=SamplingSpec(max_new_tokens=5),
            reward=reward,
            grader=grader,
        )
        module.configure_model()
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        return SelfEditLoop(trainer, replace(module.runner, candidates_per_call=1), num_edits=2, num_repeats=1)

    return made


def e_step(loop: SelfEditLoop, num_batches: int = 2) -> list[Attempt]:
    """A task a batch, two chunks a task."""
    told: list[Attempt] = []
    for index, task in enumerate(ToyTasks(num_batches).load()):
        loop.run(TaskBatch([task], index), 0, told.append)
    loop.finish()
    return told


def watched(runner: AttemptRunner, events: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[int, threading.Event]:
    """Notes each adaptation; the events are set when it begins."""
    begun = {i: threading.Event() for i in range(9)}
    adapt, calls = runner.inner_loop.adapt, iter(range(9))

    def noting(plans, seeds):
        call = next(calls)
        events.append(f"adapts {call}")
        begun[call].set()
        return adapt(plans, seeds)

    monkeypatch.setattr(runner.inner_loop, "adapt", noting)
    return begun


def test_loop_judges_a_chunk_while_adapting_the_next(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of events: the judge does not answer before the next adaptation has begun, across batches too."""
    events: list[str] = []
    judge = Remote(events)
    loop = make(sum_of(judge))
    begun = watched(loop.runner, events, monkeypatch)

    def wait(call: int) -> None:
        assert call == 3 or begun[call + 1].wait(WAIT_S), "nothing was adapted while the judge was asked"

    judge.may_answer = wait
    told = e_step(loop)
    assert [a.attempt_id for a in told] == [f"r0-stone-{task}-e{edit}-s0" for task in (0, 1) for edit in (0, 1)]
    for call in range(3):
        assert events.index(f"asked {call}") < events.index(f"answered {call}")
        assert events.index(f"adapts {call + 1}") < events.index(f"answered {call}")
        assert events.index(f"answered {call}") < events.index(f"asked {call + 1}"), "one chunk at a time"
    assert threading.main_thread() not in judge.threads


@pytest.mark.parametrize("kind", ["rater", "grader", "rubric alone"])
def test_background_judging_gives_the_same_attempts(make, kind: str) -> None:
    def one(in_background: bool) -> list[Attempt]:
        judge, grader = Remote(), RemoteGrader()
        judge.in_background = grader.in_background = in_background
        reward = {"rater": sum_of(judge), "grader": AccuracyReward(), "rubric alone": RubricReward(judge)}[kind]
        loop = make(reward, grader)
        assert loop.runner._judging.in_background is in_background
        told = [replace(a, **TIMELESS) for a in e_step(loop)]
        assert [replace(a, **TIMELESS) for a in loop.store.all()] == told
        assert loop.attempt_progress.total.completed == len(told) == 4
        in_main = [t is threading.main_thread() for t in (judge.threads or grader.threads)]
        # the exam before, of each batch, is needed at once
        assert in_main.count(True) == ((2 if kind == "grader" else 0) if in_background else len(in_main))
        return told

    assert one(True) == one(False)


def test_unused_background_grader_needs_no_thread(make) -> None:
    assert not make(LikelihoodReward(), RemoteGrader()).runner._judging.in_background


def test_judge_error_keeps_earlier_chunks(make) -> None:
    judge = Remote()

    def fail(call: int) -> None:
        if call == 2:
            raise RunError("the judge is down")

    judge.may_answer = fail
    loop = make(sum_of(judge))
    told: list[Attempt] = []
    tasks = ToyTasks(2).load()
    loop.run(TaskBatch(tasks[:1], 0), 0, told.append)
    with pytest.raises(RunError, match="the judge is down"):
        loop.run(TaskBatch(tasks[1:], 1), 0, told.append)
    assert [a.attempt_id for a in told] == ["r0-stone-0-e0-s0", "r0-stone-0-e1-s0"]
    assert loop.store.all() == told
    whole = [replace(a, **TIMELESS) for a in e_step(make(sum_of(Remote())))]

    again, store = make(sum_of(Remote())), AttemptStore(None)
    for attempt in told:
        store.add(attempt)
    again.open_store = lambda round_index: store
    assert [replace(a, **TIMELESS) for a in e_step(again)] == whole[2:], "a resumed run ends the same"


def test_model_error_keeps_the_chunk_being_judged(make, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make(sum_of(Remote()))
    adapt, calls = loop.runner.inner_loop.adapt, iter(range(9))

    def failing(plans, seeds):
        if next(calls) == 1:
            raise RuntimeError("a cable came loose")
        return adapt(plans, seeds)

    monkeypatch.setattr(loop.runner.inner_loop, "adapt", failing)
    with pytest.raises(RuntimeError, match="cable"):
        e_step(loop)
    assert [a.attempt_id for a in loop.store.all()] == ["r0-stone-0-e0-s0"]


def test_background_call_does_not_delay_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    never, stopped = threading.Event(), threading.Event()
    asked = BackgroundCall(lambda: never.wait(WAIT_S))

    def stop() -> None:
        stopped.set()
        raise StopRequested("told to", exit_code=1)

    monkeypatch.setattr(interruption, "check", stop)
    with pytest.raises(StopRequested):
        asked.result()
    assert stopped.is_set()
    assert asked._thread.daemon, "the process can end before it"
    never.set()


def test_failed_proposal_keeps_the_chunk_being_judged(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it is adapted: its edits cannot be written."""
    loop = make(sum_of(Remote()))
    first, second = ToyTasks(2).load()
    loop.run(TaskBatch([first], 0), 0, lambda attempt: None)
    assert len(loop.store.all()) < 2, "the last chunk is still judged"

    def fails(*args: object) -> None:
        raise RuntimeError("no memory to write edits")

    monkeypatch.setattr(loop.runner, "propose", fails)
    with pytest.raises(RuntimeError, match="no memory to write edits"):
        loop.run(TaskBatch([second], 1), 0, lambda attempt: None)
    assert len(loop.store.all()) == 2
