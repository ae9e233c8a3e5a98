"""Coordination of ranks without collectives: stop notices and signs of life in the key-value store of the process group.

A rank inside a collective handles no signal and sees no notice, so ranks first meet at the store, and enter the collective
together.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch.distributed as dist

from seal_lightning.core.errors import RankLost, shown
from seal_lightning.distributed import shared_store
from seal_lightning.distributed.shared_store import SharedStore

T = TypeVar("T")

_DEFAULT_TIMEOUT = timedelta(minutes=30)
_POLL_INTERVAL_S = 0.25
_MEET_INTERVAL_S = 0.05
_ANSWER_WITHIN_S = 2.0
_num_coordinators = 0


@dataclass(frozen=True, kw_only=True)
class StopNotice:
    """The reason why the run ends early. The first notice posted by any rank stands."""

    kind: Literal["stop", "failure"]
    rank: int
    reason: str

    def __str__(self) -> str:
        if self.kind == "stop":
            return f"stopped by {self.reason} (rank {self.rank})"
        return f"rank {self.rank} failed first: {shown(self.reason, 400)}"


class RankCoordinator:
    """Shares a stop notice and signs of life between the ranks of a run.

    Args:
        rank: this process.
        num_ranks: of the run.
        timeout_s: a rank whose main thread gives no sign of life for so long is lost; one whose process or host is gone,
            after a minute at most.
    """

    def __init__(self, rank: int, num_ranks: int, timeout_s: float) -> None:
        global _num_coordinators
        self.rank = rank
        self.num_ranks = num_ranks
        self.timeout_s = timeout_s
        self._notice: StopNotice | None = None
        self._store: SharedStore | None = None
        self._polled = 0.0
        self._beats = 0
        self._num_meetings: Counter[str] = Counter()
        self._lives: dict[str, tuple[str, float]] = {}
        """By key of a rank's counter, its value and the time when that was first seen."""
        self._lives_checked = time.monotonic()
        if num_ranks > 1:
            _num_coordinators += 1  # the same on every rank: each makes one per run
            self._store = SharedStore(f"seal_lightning/{_num_coordinators}", timeout_s, pulse=f"pulse/{rank}")

    def post(self, notice: StopNotice) -> None:
        """Post a notice, unless there is one already."""
        if self._store is None:
            self._notice = self._notice or notice
            return
        self._store.timeout_s = min(self._store.timeout_s, _ANSWER_WITHIN_S)  # this rank is about to end
        with suppress(RankLost):  # rank 0 keeps the store: where it is lost, the others notice that themselves
            self._store.compare_set("notice", "", json.dumps(asdict(notice)))

    def poll(self, *, now: bool = False) -> StopNotice | None:
        """Return the notice, if there is one, and give a sign of life. Asks the store 4 times a second unless ``now``.

        Raises :class:`RankLost` when rank 0, which keeps the store, cannot be reached, or another rank is silent.
        """
        if self._store is None or (not now and time.monotonic() - self._polled < _POLL_INTERVAL_S):
            return self._notice
        self._polled = time.monotonic()
        self._beats += 1
        self._store.set(f"alive/{self.rank}", str(self._beats))
        if self._notice is None and self._store.check(["notice"]):
            self._notice = StopNotice(**json.loads(self._store.get("notice")))
        if self._notice is None:
            self._check_lives()
        return self._notice

    def leave(self, within_s: float) -> None:
        """Sign off. Rank 0, which keeps the store, waits for the others to do so, for ``within_s`` at most."""
        if self._store is None:
            return
        self._store.timeout_s = min(self._store.timeout_s, _ANSWER_WITHIN_S)
        deadline = time.monotonic() + within_s
        with suppress(RankLost):
            self._store.set(f"left/{self.rank}", "yes")
            others = [f"left/{rank}" for rank in range(1, self.num_ranks)]
            while self.rank == 0 and not self._store.check(others) and time.monotonic() < deadline:
                time.sleep(_MEET_INTERVAL_S)
        self._store.close()

    def meet(self, purpose: str, give_up: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait for all ranks. Return True on every rank when all came, False on every rank where one gave up before.

        Ranks meet those that come for the same ``purpose``, for the same time: one that is about to end does not meet one
        that is about to go on.

        ``timeout_s`` bounds the wait; without it, a slow rank is waited for as long as it gives signs of life. Raises
        :class:`RankLost` when it does not.
        """
        if self._store is None:
            return True
        self._num_meetings[purpose] += 1
        name = f"{purpose}/{self._num_meetings[purpose]}"
        start = time.monotonic()
        self._store.set(f"{name}/{self.rank}", "here")
        while True:
            complete = self._store.check([f"{name}/{rank}" for rank in range(self.num_ranks)])
            late = timeout_s is not None and time.monotonic() - start > timeout_s
            # The first decision holds for all: no rank enters a collective that another has turned away from.
            if complete or late or give_up():
                return self._store.compare_set(f"{name}/outcome", "", "go" if complete else "stop") == b"go"
            if self._store.check([f"{name}/outcome"]):
                return self._store.get(f"{name}/outcome") == b"go"
            time.sleep(_MEET_INTERVAL_S)

    def _check_lives(self) -> None:
        """Raise :class:`RankLost` for a rank whose main thread is silent for too long, or whose process is gone."""
        if time.monotonic() - self._lives_checked < max(1.0, self.num_ranks / 8):
            return
        self._lives_checked = time.monotonic()
        dead_after_s = min(shared_store.DEAD_WITHOUT_PULSE_S, self.timeout_s)
        for rank in range(self.num_ranks):
            if rank == self.rank:
                continue
            if self._silent_s(f"alive/{rank}") > self.timeout_s:
                raise RankLost(
                    f"rank {rank} has given no sign of life for {self.timeout_s:.0f} s: it was killed, stopped or hangs"
                )
            if self._silent_s(f"pulse/{rank}") > dead_after_s and self._lives[f"pulse/{rank}"][0]:
                raise RankLost(
                    f"rank {rank} can no longer be reached, for {dead_after_s:.0f} s: it was killed or stopped, or its host "
                    "is down or cut off"
                )

    def _silent_s(self, key: str) -> float:
        """Return the seconds for which a rank's counter has stood still."""
        assert self._store is not None
        value = self._store.get(key).decode() if self._store.check([key]) else ""
        if key not in self._lives or value != self._lives[key][0]:
            self._lives[key] = (value, time.monotonic())
        return time.monotonic() - self._lives[key][1]


def gather_objects(local: list[T]) -> list[T]:
    """Concatenate the lists of all ranks, in rank order, on every rank. A collective: every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return list(local)
    lists: list[list[T] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, local)
    return [item for items in lists for item in items or []]


def silence_timeout_s(strategy: Any) -> float:
    """Return how long a rank may give no sign of life: the strategy's ``timeout``, or torch's own for process groups."""
    timeout: timedelta = getattr(strategy, "_timeout", None) or _DEFAULT_TIMEOUT
    return timeout.total_seconds()


def is_connection_lost(error: RuntimeError) -> bool:
    """Return True if a collective failed because of another rank."""
    return isinstance(error, dist.DistError) or (dist.is_initialized() and "gloo" in str(error))


def is_rendezvous_failure(error: RuntimeError) -> bool:
    """Return True if the process group could not be created."""
    return not dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())
