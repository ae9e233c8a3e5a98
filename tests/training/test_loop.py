"""SelfEditLoop: its use of Lightning's private loops, skipping of stored attempts, and restarts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ToyDomain, ToyTasks
from lightning.pytorch import Trainer

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import Attempt, OptimizerSpec, SamplingSpec
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import TaskBatch
from seal_lightning.training.loop import SelfEditLoop, restart_e_step
from seal_lightning.training.module import SealModule


def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.fixture
def runner(tiny_folder: Path) -> AttemptRunner:
    module = SealModule(
        domain=ToyDomain(optimizer=OptimizerSpec(num_epochs=1)),
        pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
        grader=LocalRules(),
        sampling=SamplingSpec(max_new_tokens=5),
    )
    module.configure_model()
    return module.runner


def test_loop_progress_is_saved_with_the_trainer_s_loops(runner: AttemptRunner) -> None:
    first = trainer()
    loop = SelfEditLoop(first, replace(runner, candidates_per_call=1), num_edits=2, num_repeats=1)
    loop.attach()
    loop.run(TaskBatch(ToyTasks(1).load()), 0, lambda attempt: None)
    state = first.fit_loop.state_dict()
    assert state["epoch_loop.self_edit_loop.attempt_progress"]["total"]["completed"] == 2

    second = trainer()
    other = SelfEditLoop(second, replace(runner, candidates_per_call=1), num_edits=2, num_repeats=1)
    other.attach()
    second.fit_loop.load_state_dict(state)
    assert other.attempt_progress.total.completed == 2


def test_loop_removes_the_wait_for_rank_0(runner: AttemptRunner) -> None:
    """Lightning 2.6.6 has a broadcast there; where it is gone or has another name, loops.py must say so no more."""
    lightning = trainer()
    assert callable(type(lightning.fit_loop.epoch_loop)._broadcast_sigterm_tensor)
    SelfEditLoop(lightning, replace(runner, candidates_per_call=1), num_edits=1, num_repeats=1).attach()
    assert lightning.fit_loop.epoch_loop._broadcast_sigterm_tensor() is None
    assert "_broadcast_sigterm_tensor" in vars(lightning.fit_loop.epoch_loop)


def test_loop_skips_stored_attempts(runner: AttemptRunner) -> None:
    tried: list[Attempt] = []
    loop = SelfEditLoop(trainer(), replace(runner, candidates_per_call=3), num_edits=2, num_repeats=2)
    tasks = ToyTasks(2).load()
    loop.run(TaskBatch(tasks[:1], 0), 0, tried.append)
    assert len(tried) == 4
    loop.run(TaskBatch(tasks, 1), 0, tried.append)
    assert [a.attempt_id for a in tried] == [
        f"r0-stone-{task}-e{edit}-s{repeat}" for task in (0, 1) for edit in (0, 1) for repeat in (0, 1)
    ]
    loop.run(TaskBatch(tasks, 2), 0, tried.append)
    assert len(tried) == 8
    loop.run(TaskBatch(tasks), 1, tried.append)
    assert len(tried) == 16
    assert {a.edit.seed for a in tried[:8]}.isdisjoint({a.edit.seed for a in tried[8:]})


def test_loop_reuses_a_stored_edit_for_other_repeats(runner: AttemptRunner) -> None:
    """A resume may sample in batches of another composition; what was tried stays what is tried."""
    first = SelfEditLoop(trainer(), replace(runner, candidates_per_call=1), num_edits=1, num_repeats=1)
    tried: list[Attempt] = []
    first.run(TaskBatch(ToyTasks(1).load()), 0, tried.append)
    told = replace(tried[0], edit=replace(tried[0].edit, text="told otherwise"))
    store = AttemptStore(None)
    store.add(told)
    second = SelfEditLoop(trainer(), replace(runner, candidates_per_call=1), num_edits=2, num_repeats=2)
    second.open_store = lambda round_index: store
    second.run(TaskBatch(ToyTasks(1).load()), 0, tried.append)
    assert [(a.edit.edit_index, a.repeat) for a in tried[1:]] == [(0, 1), (1, 0), (1, 1)]
    assert [a.edit.text == "told otherwise" for a in tried[1:]] == [True, False, False]


def checkpoint(epoch_started: int, epoch_processed: int, ready: int, total_ready: int) -> dict:
    def counters(n: int) -> dict:
        return dict.fromkeys(("ready", "started", "processed", "completed"), n)

    progress = {"current": counters(ready), "total": counters(total_ready), "is_last_batch": False}
    progress["total"]["completed"] -= 1
    epochs = {"current": {"ready": epoch_started, "started": epoch_started, "processed": epoch_processed}}
    return {"loops": {"fit_loop": {"epoch_progress": epochs, "epoch_loop.batch_progress": progress}}}


def test_restart_e_step_resets_an_interrupted_e_step() -> None:
    saved = checkpoint(epoch_started=3, epoch_processed=2, ready=4, total_ready=20)
    restart_e_step(saved)
    progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert set(progress["current"].values()) == {0}
    assert set(progress["total"].values()) == {16}


@pytest.mark.parametrize(("started", "processed"), [(2, 1), (3, 3), (2, 2)])
def test_restart_e_step_keeps_m_steps_and_finished_phases(started: int, processed: int) -> None:
    saved = checkpoint(started, processed, ready=4, total_ready=20)
    restart_e_step(saved)
    assert saved == checkpoint(started, processed, ready=4, total_ready=20)


def test_restart_e_step_ignores_checkpoints_without_loops() -> None:
    restart_e_step({})


def test_loop_recomputes_a_partial_chunk_as_a_whole(runner: AttemptRunner) -> None:
    """What is computed beside what moves roundings: only so are the missing attempts the same to the last bit."""
    tasks, made = ToyTasks(2).load(), []
    loop = SelfEditLoop(trainer(), replace(runner, candidates_per_call=3), num_edits=2, num_repeats=1)
    loop.run(TaskBatch(tasks), 0, made.append)
    store, again = AttemptStore(None), []
    for stored in (made[0], made[3]):
        store.add(stored)
    calls: list[int] = []
    adapt = runner.inner_loop.adapt
    runner.inner_loop.adapt = lambda plans, seeds: calls.append(len(plans)) or adapt(plans, seeds)  # type: ignore
    resumed = SelfEditLoop(trainer(), replace(runner, candidates_per_call=3), num_edits=2, num_repeats=1)
    resumed.open_store = lambda round_index: store
    resumed.run(TaskBatch(tasks), 0, again.append)
    assert calls == [3]  # the second chunk, of one, is stored whole
    timeless = {"adapt_seconds": 0.0, "examine_seconds": 0.0}
    assert [replace(a, **timeless) for a in again] == [replace(a, **timeless) for a in made[1:3]]


class CountingDomain(ToyDomain):
    """Counts the plans and exams it makes."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.plans: Counter[tuple[str, int]] = Counter()
        self.exams: Counter[str] = Counter()

    def plan(self, task, edit):
        self.plans[task.task_id, edit.edit_index] += 1
        return super().plan(task, edit)

    def exam(self, task):
        self.exams[task.task_id] += 1
        return super().exam(task)


def test_e_step_plans_each_edit_and_sets_each_exam_once(tiny_folder: Path) -> None:
    """Whatever the repeats, the chunks, and the writer's own look for malformed edits."""
    domain = CountingDomain(optimizer=OptimizerSpec(num_epochs=1))
    module = SealModule(
        domain=domain,
        pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
        sampling=SamplingSpec(max_new_tokens=5),
        edit_retries=1,
        candidates_per_call=2,
    )
    module.configure_model()
    loop = SelfEditLoop(trainer(), module.runner, num_edits=2, num_repeats=3)
    loop.run(TaskBatch(ToyTasks(2).load()), 0, lambda attempt: None)
    assert len(loop.store.all()) == 12
    assert domain.plans == {(f"stone-{task}", edit): 1 for task in (0, 1) for edit in (0, 1)}
    assert domain.exams == {"stone-0": 1, "stone-1": 1}
