"""Work sharing in the E-step: the next free rank takes the next piece. No collective, and no rank waits for another.

Calls of the inner loop get smaller towards the end (guided self-scheduling, Polychronopoulos and Kuck 1987), so that all
ranks end at nearly the same time. The cut depends on the number of ranks only, and results do not depend on which rank
does a piece, so they do not depend on the ranks' speeds.
"""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from seal_lightning.core import Prompt, Task
from seal_lightning.core.interfaces import AnyDomain
from seal_lightning.distributed.shared_store import SharedStore

_MAX_VALUE_BYTES = 4 << 20
"""Of one key: the store refuses much larger values."""
_CALLS_PER_RANK = 2
"""Number of calls into which a rank's share of the remaining work is cut at least, with several ranks."""
_num_queues = 0


def guided_sizes(count: int, *, left: int, most: int, num_pieces: int) -> Iterator[int]:
    """Yield the sizes of pieces of work; they add up to ``count``.

    Args:
        count: ≥ 0, things to cut up.
        left: ≥ count, things that are left to do, these and those behind them.
        most: ≥ 1, the most in a piece.
        num_pieces: ≥ 1; a piece has that part of what is left, at least one thing. 1 for one rank: pieces are as large as
            they may be.
    """
    while count > 0:
        size = min(count, most, max(1, math.ceil(left / num_pieces)))
        yield size
        count, left = count - size, left - size


def batch_sizes(num_tasks: int, most: int, num_ranks: int) -> list[int]:
    """Return the sizes of batches of tasks whose edits are written together: as large as may be, equally many per rank.

    They do not get smaller: writing a few edits takes nearly as long as writing many.
    """
    if num_ranks == 1:
        return list(guided_sizes(num_tasks, left=num_tasks, most=most, num_pieces=1))
    number = min(num_tasks, num_ranks * math.ceil(num_tasks / (num_ranks * most)))
    return [num_tasks // number + (index < num_tasks % number) for index in range(number)]


def call_sizes(count: int, *, left: int, most: int, num_ranks: int) -> Iterator[int]:
    """Yield the number of a batch's ``count`` attempts in each call of the inner loop; see :func:`guided_sizes`."""
    return guided_sizes(count, left=left, most=most, num_pieces=1 if num_ranks == 1 else _CALLS_PER_RANK * num_ranks)


def by_falling_cost(domain: AnyDomain, tasks: Sequence[Task]) -> list[Task]:
    """Sort the tasks by expected cost, the largest first; ties keep the data's order."""
    return sorted(tasks, key=lambda task: -expected_cost(domain, task))


def expected_cost(domain: AnyDomain, task: Task) -> int:
    """Return the characters that the model will read for a task: its edit prompt, and its exam with the gold answers.

    The edit's own length is unknown before it is written.
    """
    exam = domain.exam(task)
    return _length(domain.edit_prompt(task)) + sum(_length(e.prompt) + len(e.target) for e in exam)


def _length(prompt: Prompt) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(message.content) for message in prompt)


class WorkQueue:
    """Numbers that each go to one rank only, and values that ranks hand each other.

    Args:
        num_ranks: that share the work.
        store: of the run; None for one rank.

    Example:
        >>> queue = WorkQueue()
        >>> [queue.take("batch 0"), queue.take("batch 0")]
        [0, 1]
    """

    def __init__(self, num_ranks: int = 1, store: SharedStore | None = None) -> None:
        self.num_ranks = num_ranks
        self._store = store
        self._taken: Counter[str] = Counter()
        self._own: dict[str, Any] = {}

    @classmethod
    def of_run(cls, num_ranks: int, timeout_s: float) -> WorkQueue:
        """Return the queue of the process group's ranks, each of which must have made as many before.

        ``timeout_s`` is how long rank 0 may be silent before :class:`RankLost` is raised.
        """
        global _num_queues
        if num_ranks == 1:
            return cls()
        _num_queues += 1
        return cls(num_ranks, SharedStore(f"seal_lightning/queue/{_num_queues}", timeout_s))

    def take(self, name: str) -> int:
        """Return how often this name was taken before, on all ranks: 0 for the first, and no number twice."""
        if self._store is not None:
            return self._store.add(f"{name}/taken", 1) - 1
        self._taken[name] += 1
        return self._taken[name] - 1

    def publish(self, name: str, value: Any) -> None:
        """Let all ranks fetch a value; once per name."""
        self._own[name] = value
        if self._store is not None:
            data = pickle.dumps(value)
            starts = range(0, len(data), _MAX_VALUE_BYTES)
            for number, start in enumerate(starts):
                self._store.set(f"{name}/value/{number}", data[start : start + _MAX_VALUE_BYTES])
            self._store.set(f"{name}/published", str(len(starts)))

    def is_published(self, name: str) -> bool:
        """Return True if a value can be fetched."""
        return name in self._own or (self._store is not None and self._store.check([f"{name}/published"]))

    def fetch(self, name: str) -> Any:
        """Return a value that :meth:`is_published`."""
        if name not in self._own:
            assert self._store is not None
            parts = range(int(self._store.get(f"{name}/published")))
            data = b"".join(self._store.get(f"{name}/value/{number}") for number in parts)
            # Of a rank of the same run, as torch's own collectives of objects are.
            self._own[name] = pickle.loads(data)  # nosec B301  # noqa: S301
        return self._own[name]

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def drop(self, name: str) -> None:
        """Drop this rank's copy of a value."""
        self._own.pop(name, None)

    def forget(self, name: str) -> None:
        """Delete a value that no rank will fetch any more."""
        if self._store is not None and self._store.check([f"{name}/published"]):
            for number in range(int(self._store.get(f"{name}/published"))):
                self._store.delete(f"{name}/value/{number}")
