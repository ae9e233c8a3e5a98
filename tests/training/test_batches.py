"""Batches: each task and row once over all ranks, equally many batches per rank, and resumable."""

from __future__ import annotations

import pytest
from fakes import ToyTasks

from seal_lightning.core import BufferRow
from seal_lightning.training.batches import RowBatch, RowBatches, TaskBatches


def rows(count: int) -> list[BufferRow]:
    return [
        BufferRow(task_id=f"t{i}", edit_index=i, prompt="p", text=str(i), token_ids=(i,), reward=0.0)
        for i in range(count)
    ]


def row_batches(count: int, rank: int = 0, world_size: int = 1, **changes: int) -> RowBatches:
    settings = {"num_passes": 3, "batch_size": 4, "seed": 5, "round_index": 0} | changes
    return RowBatches(rows(count), rank=rank, world_size=world_size, **settings)


def indices(batches: list[RowBatch]) -> list[list[int]]:
    return [[row.edit_index for row in batch.all_rows[batch.rank :: batch.num_ranks]] for batch in batches]


def one_pass(count: int, pass_index: int = 0, **changes: int) -> list[int]:
    batches = indices(list(row_batches(count, **changes)))
    per_pass = len(batches) // 3
    return sum(batches[pass_index * per_pass : (pass_index + 1) * per_pass], [])


# --- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tasks", [0, 1, 5, 8, 13])
@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_task_batches_are_equally_many_on_each_rank(num_tasks: int, batch_size: int, world_size: int) -> None:
    tasks = ToyTasks(num_tasks).load()
    loaders = [TaskBatches(tasks, batch_size, rank, world_size) for rank in range(world_size)]
    by_rank = [list(loader) for loader in loaders]
    assert len({len(batches) for batches in by_rank}) == 1
    assert [len(loader) for loader in loaders] == [len(batches) for batches in by_rank]
    seen = [task.task_id for batches in by_rank for batch in batches for task in batch.tasks]
    assert sorted(seen) == sorted(task.task_id for task in tasks)
    assert all(len(batch.tasks) <= batch_size for batches in by_rank for batch in batches)
    filled = [sum(bool(batch.tasks) for batch in batches) for batches in by_rank]
    assert max(filled) - min(filled) <= 1


def test_task_batches_do_not_depend_on_the_number_of_ranks() -> None:
    tasks = ToyTasks(13).load()

    def composition(world_size: int) -> set[tuple[str, ...]]:
        loaders = [TaskBatches(tasks, 2, rank, world_size) for rank in range(world_size)]
        return {tuple(task.task_id for task in batch.tasks) for loader in loaders for batch in loader if batch.tasks}

    assert composition(1) == composition(2) == composition(5)
    assert len(next(iter(TaskBatches(tasks, 20, 2, 3))).tasks) == 3, (
        "a rank was left idle for a batch that is too large"
    )


def test_task_batches_keep_the_data_s_order() -> None:
    tasks = ToyTasks(7).load()
    loader = TaskBatches(tasks, 3, 0, 1)
    for _ in range(2):
        assert [[t.task_id for t in batch.tasks] for batch in loader] == [
            ["stone-0", "stone-1", "stone-2"],
            ["stone-3", "stone-4", "stone-5"],
            ["stone-6"],
        ]


def test_task_batches_restart_on_resume() -> None:
    loader = TaskBatches(ToyTasks(4).load(), 1, 0, 1)
    iterator = iter(loader)
    next(iterator), next(iterator)
    fresh = TaskBatches(ToyTasks(4).load(), 1, 0, 1)
    fresh.load_state_dict(loader.state_dict())
    assert [batch.tasks[0].task_id for batch in fresh] == [f"stone-{i}" for i in range(4)]


# --- buffer rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 10])
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_row_batches_are_shared_by_the_ranks(count: int, world_size: int) -> None:
    loaders = [row_batches(count, rank, world_size) for rank in range(world_size)]
    by_rank = [list(loader) for loader in loaders]
    assert {len(batches) for batches in by_rank} == {len(loaders[0])}
    whole = list(row_batches(count))
    for step, parts in enumerate(zip(*by_rank, strict=True)):
        assert {part.step for part in parts} == {step}
        expected = [row.edit_index for row in whole[step].all_rows]
        assert all([row.edit_index for row in part.all_rows] == expected for part in parts)
        assert sorted(index for indices_of in indices(parts) for index in indices_of) == sorted(expected)


@pytest.mark.parametrize("count", [1, 4, 10])
def test_row_batches_have_every_row_once_per_pass(count: int) -> None:
    assert all(sorted(one_pass(count, p)) == list(range(count)) for p in range(3))
    assert len(row_batches(count)) == 3 * -(-count // 4)
    assert max(len(batch) for batch in indices(list(row_batches(count)))) <= 4


def test_row_batches_order_by_seed_round_and_pass() -> None:
    assert one_pass(30) == one_pass(30)
    orders = [one_pass(30, 0), one_pass(30, 1), one_pass(30, 2), one_pass(30, seed=6), one_pass(30, round_index=1)]
    assert len({tuple(order) for order in orders}) == 5
    assert list(range(30)) not in orders


@pytest.mark.parametrize("stopped_after", [0, 1, 4, 8, 9])
def test_row_batches_resume_where_they_stopped(stopped_after: int) -> None:
    whole = list(row_batches(10))
    loader = row_batches(10)
    iterator = iter(loader)
    for _ in range(stopped_after):
        next(iterator)
    resumed = row_batches(10)
    resumed.load_state_dict(loader.state_dict())
    rest = list(resumed)
    assert indices(rest) == indices(whole[stopped_after:])
    assert [batch.step for batch in rest] == list(range(stopped_after, 9))
    assert indices(list(resumed)) == indices(whole)  # the next epoch is a whole one
    assert resumed.state_dict() == {"yielded": 9}
