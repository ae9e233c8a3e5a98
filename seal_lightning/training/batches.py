"""The trainer's batches: tasks in the E-step and evaluations, buffer rows in the M-step.

Orders come from seeds and names, never from a global generator, so a resumed epoch continues where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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


BatchT = TypeVar("BatchT")
ItemT = TypeVar("ItemT")


class _SplitBatches(Generic[ItemT, BatchT]):
    """Items in batches, in the data's order; whole batches are split between the ranks, and every rank has as many.

    The items of a batch do not depend on the number of ranks, as long as each has a batch: what shares a batch moves
    roundings.
    """

    batch: Callable[[Sequence[ItemT]], BatchT]

    def __init__(self, items: Sequence[ItemT], batch_size: int, rank: int, world_size: int) -> None:
        batch_size = max(
            1, min(batch_size, math.ceil(len(items) / world_size))
        )  # smaller batches, rather than idle ranks
        batches = [list(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
        self.share = batches[rank::world_size]
        self.num_batches = math.ceil(len(batches) / world_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[BatchT]:
        for index in range(self.num_batches):
            yield type(self).batch(self.share[index] if index < len(self.share) else [])

    def state_dict(self) -> dict[str, int]:
        """Return nothing: a resumed epoch of tasks starts at its first batch and skips stored attempts."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load."""


class TaskBatches(_SplitBatches[Task, TaskBatch]):
    """Tasks in batches, split between the ranks."""

    batch = TaskBatch


class SharedTaskBatches:
    """All tasks in batches, the same on every rank: the ranks share the work at run time.

    Args:
        tasks: in the order in which they are started.
        sizes: batch sizes; they add up to the number of tasks.
    """

    def __init__(self, tasks: Sequence[Task], sizes: Sequence[int]) -> None:
        self.batches: list[TaskBatch] = []
        start = 0
        for index, size in enumerate(sizes):
            self.batches.append(TaskBatch(tasks[start : start + size], index, len(tasks) - start))
            start += size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[TaskBatch]:
        return iter(self.batches)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: a resumed E-step starts at its first batch and skips stored attempts."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to load."""


class EpisodeBatch:
    """Some episodes of a protocol; empty where another rank has one batch more."""

    def __init__(self, episodes: Sequence[Any]) -> None:
        self.episodes = list(episodes)


class EpisodeBatches(_SplitBatches[Any, EpisodeBatch]):
    """Episodes in batches, split between the ranks."""

    batch = EpisodeBatch


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
