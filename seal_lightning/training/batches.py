"""The trainer's batches: tasks in the E-step and evaluations, buffer rows in the M-step.

Orders come from seeds and names, never from a global generator, so a resumed epoch continues where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from seal_lightning.core import BufferRow, Task
from seal_lightning.core.seeds import derive_seed


class TaskBatch:
    """Some tasks; empty where another rank has one batch more. (Not a dataclass: Lightning would copy its fields.)

    Args:
        tasks: the batch's tasks.
        index: the batch's index in the epoch, from 0.
        num_tasks_left: tasks of the epoch from this batch on; by default this is the last one.
    """

    def __init__(self, tasks: Sequence[Task], index: int = 0, num_tasks_left: int | None = None) -> None:
        self.tasks = list(tasks)
        self.index = index
        self.num_tasks_left = len(self.tasks) if num_tasks_left is None else num_tasks_left


class EpisodeBatch:
    """Some episodes of a protocol; empty where another rank has one batch more."""

    def __init__(self, episodes: Sequence[Any]) -> None:
        self.episodes = list(episodes)


BatchT = TypeVar("BatchT")
ItemT = TypeVar("ItemT")


class _Batches(Generic[BatchT]):
    """A loader of given batches. It saves no position: a resumed epoch restarts and skips stored attempts."""

    def __init__(self, batches: Iterable[BatchT]) -> None:
        self.batches = list(batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchT]:
        return iter(self.batches)

    def state_dict(self) -> dict[str, int]:
        """Return nothing; without this method Lightning warns of a loader that cannot resume."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Load nothing."""


def _split(items: Sequence[ItemT], batch_size: int, rank: int, world_size: int) -> list[Sequence[ItemT]]:
    """Return a rank's batches of items in the data's order; every rank has as many, the last may be empty.

    The items of a batch do not depend on the number of ranks, as long as each has a batch: what shares a batch moves
    roundings.
    """
    batch_size = max(1, min(batch_size, math.ceil(len(items) / world_size)))  # smaller batches, rather than idle ranks
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    num_batches = math.ceil(len(batches) / world_size)
    share = batches[rank::world_size]
    return [*share, *[()] * (num_batches - len(share))]


class TaskBatches(_Batches[TaskBatch]):
    """Tasks in batches, split between the ranks."""

    def __init__(self, tasks: Sequence[Task], batch_size: int, rank: int, world_size: int) -> None:
        super().__init__(TaskBatch(part) for part in _split(tasks, batch_size, rank, world_size))


class EpisodeBatches(_Batches[EpisodeBatch]):
    """Episodes in batches, split between the ranks."""

    def __init__(self, episodes: Sequence[Any], batch_size: int, rank: int, world_size: int) -> None:
        super().__init__(EpisodeBatch(part) for part in _split(episodes, batch_size, rank, world_size))


class SharedTaskBatches(_Batches[TaskBatch]):
    """All tasks in batches, the same on every rank: the ranks share the work at run time.

    Args:
        tasks: in the order in which they are started.
        sizes: batch sizes; they add up to the number of tasks.
    """

    def __init__(self, tasks: Sequence[Task], sizes: Sequence[int]) -> None:
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        super().__init__(
            TaskBatch(tasks[start : start + size], index, len(tasks) - start)
            for index, (start, size) in enumerate(zip(starts, sizes, strict=True))
        )


class RowBatch:
    """The rows of one optimiser step over all ranks; each rank trains on every ``num_ranks``-th from its own on."""

    def __init__(self, all_rows: Sequence[BufferRow], rank: int, num_ranks: int, step: int) -> None:
        self.all_rows = list(all_rows)
        self.rank = rank
        self.num_ranks = num_ranks
        self.step = step


class RowBatches:
    """The buffer, ``num_passes`` times, each pass in its own random order; a batch is one optimiser step."""

    def __init__(
        self,
        rows: Sequence[BufferRow],
        *,
        num_passes: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        round_index: int,
    ) -> None:
        self.rows = list(rows)
        self.num_passes = num_passes
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = derive_seed(seed, "buffer order", round_index)
        self.start = 0
        self._yielded = 0

    def __len__(self) -> int:
        return self.num_passes * -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[RowBatch]:
        start, self.start = self.start, 0
        self._yielded = start
        for step, indices in enumerate(self._index_batches()):
            if step < start:
                continue
            self._yielded = step + 1
            yield RowBatch([self.rows[i] for i in indices], self.rank, self.world_size, step)

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches yielded so far."""
        return {"yielded": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches that were yielded."""
        self.start = state.get("yielded", 0)

    def _index_batches(self) -> Iterator[list[int]]:
        for pass_index in range(self.num_passes):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, pass_index))
            order = torch.randperm(len(self.rows), generator=generator).tolist()
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size]
