"""How the E-step is cut up and taken: sizes, order, a store that several ranks share, and ranks that help each other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from fakes import ToyDomain, ToyTasks
from lightning.pytorch import Trainer

from seal_lightning.core import Attempt, ChatMessage, OptimizerSpec, SamplingSpec
from seal_lightning.core.errors import RunError
from seal_lightning.distributed import work_queue
from seal_lightning.distributed.shared_store import SharedStore
from seal_lightning.distributed.work_queue import WorkQueue, batch_sizes, by_falling_cost, expected_cost, guided_sizes
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import SharedTaskBatches
from seal_lightning.training.loop import SelfEditLoop
from seal_lightning.training.module import SealModule

TIMELESS = {"adapt_seconds": 0.0, "examine_seconds": 0.0}
_prefixes = itertools.count()


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one, for its store; threads and objects pose as ranks."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def ranks(number: int) -> list[WorkQueue]:
    prefix = f"test/{next(_prefixes)}"
    return [WorkQueue(number, SharedStore(prefix, timeout_s=20)) for _ in range(number)]


# --- sizes and order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("most", [1, 4, 1000])
@pytest.mark.parametrize("num_pieces", [1, 2, 16])
def test_guided_sizes_add_up_and_fall(count: int, most: int, num_pieces: int) -> None:
    sizes = list(guided_sizes(count, left=count, most=most, num_pieces=num_pieces))
    assert sum(sizes) == count
    assert all(1 <= size <= most for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    if num_pieces == 1 and count:
        assert sizes == [most] * (count // most) + [count % most] * (count % most > 0), (
            "one rank: as large as they may be"
        )
    if num_pieces > 1 and count:
        assert sizes[-1] == 1, "all ranks can end at nearly the same time"


def test_guided_sizes_grow_with_later_work() -> None:
    assert list(guided_sizes(6, left=60, most=48, num_pieces=4)) == [6]
    assert list(guided_sizes(6, left=6, most=48, num_pieces=4)) == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("num_tasks", "most", "num_ranks", "sizes"),
    [
        (0, 6, 3, []),
        (7, 3, 1, [3, 3, 1]),
        (8, 6, 2, [4, 4]),
        (5, 6, 8, [1] * 5),
        (50, 6, 8, [4, 4] + [3] * 14),
        (13, 1, 4, [1] * 13),
    ],
)
def test_batch_sizes_are_equal_per_rank(num_tasks: int, most: int, num_ranks: int, sizes: list[int]) -> None:
    assert batch_sizes(num_tasks, most, num_ranks) == sizes


def test_by_falling_cost_sorts_by_cost() -> None:
    domain, tasks = ToyDomain(), ToyTasks(12).load()
    order = by_falling_cost(domain, tasks)
    costs = [expected_cost(domain, task) for task in order]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) > 1
    assert sorted(t.task_id for t in order) == sorted(t.task_id for t in tasks)


def test_expected_cost_counts_chat_messages() -> None:
    chatty = ToyDomain()
    plain = expected_cost(chatty, ToyTasks(1).load()[0])
    edit_prompt = chatty.edit_prompt
    chatty.edit_prompt = lambda task: [ChatMessage(role="user", content=edit_prompt(task))]  # type: ignore[method-assign]
    assert expected_cost(chatty, ToyTasks(1).load()[0]) == plain


def test_shared_task_batches_know_what_is_left() -> None:
    batches = SharedTaskBatches(ToyTasks(7).load(), [3, 3, 1])
    assert [(b.index, len(b.tasks), b.num_tasks_left) for b in batches] == [(0, 3, 7), (1, 3, 4), (2, 1, 1)]
    assert len(batches) == 3
    assert len(SharedTaskBatches([], [])) == 0


# --- the store ---------------------------------------------------------------------------------------------------------


def test_take_returns_no_number_twice(group: None) -> None:
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(work: WorkQueue, mine: list[int]) -> None:
        while (number := work.take("piece")) < 200:
            mine.append(number)

    threads = [threading.Thread(target=take, args=pair) for pair in zip(ranks(4), taken, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*taken)) == list(range(200))


@pytest.mark.parametrize("value", [None, {"a": [1, 2]}, "x" * 100, b"y" * 10_000])
def test_fetch_returns_what_was_published(group: None, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    monkeypatch.setattr(work_queue, "_MAX_VALUE_BYTES", 1000)  # in pieces
    one, other = ranks(2)
    assert not other.is_published("it")
    one.publish("it", value)
    assert one.is_published("it")
    assert other.is_published("it")
    assert other.fetch("it") == one.fetch("it") == value
    one.forget("it")
    assert other.fetch("it") == value  # it has it already


def test_forget_deletes_the_value(group: None) -> None:
    one, other = ranks(2)
    one.publish("it", "value")
    other.forget("it")
    assert not one._store.check(["it/value/0"])
    assert other.is_published("it"), "those who come late know that nothing is left to be waited for"


def test_work_queue_of_one_rank_needs_no_store() -> None:
    work = WorkQueue.of_run(num_ranks=1, timeout_s=1)
    assert work.num_ranks == 1
    assert [work.take("a"), work.take("a"), work.take("b")] == [0, 1, 0]
    assert not work.is_published("it")
    work.publish("it", 5)
    assert work.fetch("it") == 5
    work.forget("it")
    work.drop("it")
    assert not work._own


# --- the loop ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def loops(tiny_folder: Path, group: None):
    def make(number: int, most: int = 3) -> list[SelfEditLoop]:
        made = []
        for work in ranks(number):
            module = SealModule(
                domain=ToyDomain(optimizer=OptimizerSpec(num_epochs=1)),
                pretrained=Pretrained(source=str(tiny_folder), dtype="float32"),
                sampling=SamplingSpec(max_new_tokens=5),
            )
            module.configure_model()
            trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
            loop = SelfEditLoop(trainer, replace(module.runner, candidates_per_call=most), num_edits=2, num_repeats=2)
            loop._work = work
            made.append(loop)
        return made

    return make


def batches() -> SharedTaskBatches:
    return SharedTaskBatches(ToyTasks(3).load(), [2, 1])


def all_of(loop: SelfEditLoop, stored: list[Attempt]) -> None:
    for batch in batches():
        loop.run(batch, 0, stored.append, is_last=batch.index == 1)
    loop.finish()


def by_id(attempts: list[Attempt]) -> dict[str, Attempt]:
    return {attempt.attempt_id: replace(attempt, **TIMELESS) for attempt in attempts}


def test_loop_helper_changes_no_result(loops) -> None:
    """The second rank comes while the first is at its first call: it takes all that is left, of both batches."""
    (alone, _), everything = loops(2), []
    all_of(alone, everything)
    assert len(everything) == 12

    first, second = loops(2)
    of_first: list[Attempt] = []
    of_second: list[Attempt] = []

    def stored(attempt: Attempt) -> None:
        of_first.append(attempt)
        if len(of_first) == 1:
            all_of(second, of_second)

    for batch in batches():
        first.run(batch, 0, stored, is_last=batch.index == 1)
    assert len(of_first) == 3, "the call it was at"
    assert by_id(of_first).keys().isdisjoint(by_id(of_second))
    assert by_id(of_first) | by_id(of_second) == by_id(everything), "to the last bit, whoever does it"
    assert not first._work._own, "what is done with takes no room"
    assert not second._work._own
    second_wrote = {a.task_id for a in of_second} - {a.task_id for a in of_first}
    assert "stone-2" in second_wrote


def test_loop_helper_waits_for_edits(loops, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = loops(2)
    of_first: list[Attempt] = []
    of_second: list[Attempt] = []
    batch = next(iter(SharedTaskBatches(ToyTasks(1).load(), [1])))
    claimed, written = threading.Event(), threading.Event()
    write = first._write
    monkeypatch.setattr(first, "_write", lambda batch: (claimed.set(), written.wait(20), write(batch))[2])
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            written.set()
            owner.join()

    owner = threading.Thread(target=first.run, args=(batch, 0, of_first.append))
    owner.start()
    claimed.wait(20)
    monkeypatch.setattr("seal_lightning.training.loop.time.sleep", nap)
    second.run(batch, 0, of_second.append)
    assert len(naps) == 3
    assert len(of_first) + len(of_second) == 4
    assert second.runner.time_split.seconds()["idle"] > 0


def stored_before(loops, tmp_path: Path, kept: slice = slice(None)) -> tuple[list[Attempt], AttemptStore]:
    """An E-step that was made, and some of it in a store of its own."""
    (alone, _), everything = loops(2), []
    all_of(alone, everything)
    store = AttemptStore(tmp_path / "round_0")
    for attempt in everything[kept]:
        store.add(attempt)
    store.close()
    return everything, store


def test_loop_reports_stored_attempts_once(loops, tmp_path: Path) -> None:
    everything, _ = stored_before(loops, tmp_path, slice(0, 5))
    first, second = loops(2)
    for rank, loop in enumerate((first, second)):
        loop.open_store = lambda round_index, rank=rank: AttemptStore(tmp_path / "round_0", rank)
    again: list[Attempt] = []
    all_of(first, again)
    all_of(second, again)
    assert by_id(again) == {name: a for name, a in by_id(everything).items() if name not in by_id(everything[:5])}
    assert (first.reports_stored, second.reports_stored) == (True, False)
    assert len(first.store.all()) + len(second.store.added()) == 12, "each is gathered once"


def test_loop_waits_for_attempts_of_other_ranks(loops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a network file system that shows a host's files later to others."""
    _, store = stored_before(loops, tmp_path)
    first, second = loops(2)
    looked: list[int] = []

    def late(round_index: int) -> AttemptStore:
        looked.append(round_index)
        return AttemptStore(tmp_path / ("nothing" if len(looked) < 4 else "round_0"), 1)

    first.open_store, second.open_store = (lambda round_index: store), late
    again: list[Attempt] = []
    all_of(first, again)
    all_of(second, again)
    assert again == []
    assert len(looked) == 4
    monkeypatch.setattr("seal_lightning.training.loop._VISIBLE_WITHIN_S", 0.2)
    third, fourth = loops(2)
    third.open_store, fourth.open_store = (lambda round_index: store), lambda round_index: AttemptStore(None)
    all_of(third, again)
    with pytest.raises(RunError, match="another rank sees attempts there that this one does not see"):
        all_of(fourth, again)


def test_loop_publishes_only_the_batchs_exams(loops, tmp_path: Path) -> None:
    _, store = stored_before(loops, tmp_path, slice(0, 10))
    (loop, _), handed = loops(2), []
    loop.open_store = lambda round_index: store
    publish = loop._work.publish
    loop._work.publish = lambda name, value: handed.append(value) or publish(name, value)  # type: ignore[method-assign]
    all_of(loop, [])
    (written,) = [value for value in handed if value is not None and not isinstance(value, list)]
    assert set(written.before) == {"stone-2"}


def test_loop_refuses_another_seed(loops, tmp_path: Path) -> None:
    _, store = stored_before(loops, tmp_path, slice(8, 12))  # of the second batch only
    (loop, _), made = loops(2), []
    loop.open_store = lambda round_index: store
    loop.runner.seed += 1
    with pytest.raises(RunError, match=r"made with another seed than model\.seed"):
        all_of(loop, made)
    assert made == []


def test_loop_raises_the_first_failure(loops, monkeypatch: pytest.MonkeyPatch) -> None:
    (loop, _) = loops(2)

    def fails(*args: object) -> None:
        raise ValueError("the cable")

    def fails_too() -> None:
        raise RunError("the judge")

    monkeypatch.setattr(loop, "_write", fails)
    loop._begin_round(0)
    monkeypatch.setattr(loop.runner, "finish", fails_too)
    with pytest.raises(ValueError, match="the cable") as found:
        loop.run(next(iter(batches())), 0, lambda attempt: None)
    assert "the judge" in found.value.__notes__[0]
