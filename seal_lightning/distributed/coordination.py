"""What ranks say to each other outside gradients: notes on a board that needs no collective, and objects gathered once
at a phase's end.

A rank inside a collective hears no signal and cannot be told anything, so ranks first meet at the board, and enter the
collective together.
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
_LOOK_EVERY_S = 0.25
_ANSWER_WITHIN_S = 2.0
_num_boards = 0


@dataclass(frozen=True, kw_only=True)
class StopNotice:
    """Why the run ends before its end. The first note on the board stands."""

    kind: Literal["stop", "failure"]
    rank: int
    reason: str


class RankCoordinator:
    """Where the ranks of a run leave notes and signs of life: the key-value store of their process group.

    Args:
        rank: this process.
        num_ranks: of the run.
        timeout_s: a rank that gives no sign of life for so long is lost; one whose process or host is gone, after a
            minute at most.
    """

    def __init__(self, rank: int, num_ranks: int, timeout_s: float) -> None:
        global _num_boards
        self.rank = rank
        self.num_ranks = num_ranks
        self.timeout_s = timeout_s
        self._note: StopNotice | None = None
        self._store: SharedStore | None = None
        self._looked = 0.0
        self._beats = 0
        self._num_meetings: Counter[str] = Counter()
        others = [other for other in range(num_ranks) if other != rank]
        self._lives = {other: ("", time.monotonic()) for other in others}
        self._pulses = {other: ("", time.monotonic()) for other in others}
        self._lives_looked = time.monotonic()
        if num_ranks > 1:
            _num_boards += 1  # the same on every rank: each makes one a run
            self._store = SharedStore(f"seal_lightning/{_num_boards}", timeout_s, pulse=f"pulse/{rank}")

    def post(self, note: StopNotice) -> None:
        """Leave a note, unless there is one already."""
        if self._store is None:
            self._note = self._note or note
            return
        self._store.timeout_s = min(self._store.timeout_s, _ANSWER_WITHIN_S)  # this rank is about to end
        with suppress(RankLost):  # the store lives with rank 0: where that is lost, others see so themselves
            self._store.compare_set("note", "", json.dumps(asdict(note)))

    def look(self, *, now: bool = False) -> StopNotice | None:
        """The note on the board, if there is one; gives a sign of life. Looks a few times a second unless ``now``.

        Raises :class:`RankLost` when rank 0, which keeps the board, cannot be reached, or another rank gives no sign of
        life.
        """
        if self._store is None or (not now and time.monotonic() - self._looked < _LOOK_EVERY_S):
            return self._note
        self._looked = time.monotonic()
        self._beats += 1
        self._store.set(f"alive/{self.rank}", str(self._beats))
        if self._note is None and self._store.check(["note"]):
            self._note = StopNotice(**json.loads(self._store.get("note")))
        if self._note is None:
            self._check_lives()
        return self._note

    def leave(self, within_s: float) -> None:
        """Say good-bye. Rank 0, which keeps the board, stays until the others have left, for so long at most."""
        if self._store is None:
            return
        self._store.timeout_s = min(self._store.timeout_s, _ANSWER_WITHIN_S)
        deadline = time.monotonic() + within_s
        with suppress(RankLost):
            self._store.set(f"left/{self.rank}", "yes")
            others = [f"left/{rank}" for rank in range(1, self.num_ranks)]
            while self.rank == 0 and not self._store.check(others) and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S / 5)
        self._store.close()

    def meet(self, purpose: str, give_up: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait for all ranks; True when all are there, on every one of them, and False where one gave up before.

        Ranks meet those that come for the same ``purpose``, for the same time: one that is about to end does not meet one
        that is about to go on.

        ``timeout_s`` bounds the wait; without it, a rank that is merely slow is waited for as long as it gives signs of
        life. Raises :class:`RankLost` when it does not.
        """
        if self._store is None:
            return True
        self._num_meetings[purpose] += 1
        name = f"{purpose}/{self._num_meetings[purpose]}"
        start = time.monotonic()
        self._store.set(f"{name}/{self.rank}", "here")
        while True:
            here = self._store.check([f"{name}/{rank}" for rank in range(self.num_ranks)])
            late = timeout_s is not None and time.monotonic() - start > timeout_s
            # Whoever decides first decides for all: no rank goes into a collective that another has turned from.
            if here or late or give_up():
                return self._store.compare_set(f"{name}/outcome", "", "go" if here else "stop") == b"go"
            if self._store.check([f"{name}/outcome"]):
                return self._store.get(f"{name}/outcome") == b"go"
            time.sleep(_LOOK_EVERY_S / 5)

    def _check_lives(self) -> None:
        """Raise :class:`RankLost` for a rank that has given no sign of life for too long, or has no pulse any more."""
        if time.monotonic() - self._lives_looked < max(1.0, self.num_ranks / 8):
            return
        self._lives_looked = time.monotonic()
        dead_after_s = min(shared_store.DEAD_WITHOUT_PULSE_S, self.timeout_s)
        for rank in self._lives:
            if self._silent_s(self._lives, "alive", rank) > self.timeout_s:
                raise RankLost(
                    f"rank {rank} has given no sign of life for {self.timeout_s:.0f} s: it was killed, stopped or hangs"
                )
            if self._silent_s(self._pulses, "pulse", rank) > dead_after_s and self._pulses[rank][0]:
                raise RankLost(
                    f"rank {rank} can no longer be reached, for {dead_after_s:.0f} s: it was killed or stopped, or its host "
                    "is down or cut off"
                )

    def _silent_s(self, known: dict[int, tuple[str, float]], name: str, rank: int) -> float:
        """For how long a rank's counter of that name has stood still, in seconds."""
        assert self._store is not None
        key = f"{name}/{rank}"
        found = self._store.get(key).decode() if self._store.check([key]) else ""
        if found != known[rank][0]:
            known[rank] = (found, time.monotonic())
        return time.monotonic() - known[rank][1]


def gather_objects(local: list[T]) -> list[T]:
    """The lists of all ranks, joined in rank order, on every rank. A collective: every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return list(local)
    lists: list[list[T] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, local)
    return [item for items in lists for item in items or []]


def silence_allowed_s(strategy: Any) -> float:
    """How long a rank may give no sign of life: the strategy's ``timeout``, or torch's own for process groups."""
    timeout: timedelta = getattr(strategy, "_timeout", None) or _DEFAULT_TIMEOUT
    return timeout.total_seconds()


def is_connection_lost(error: RuntimeError) -> bool:
    """Whether a collective failed because of another rank: a type of its own with NCCL, a message with gloo."""
    return isinstance(error, dist.DistError) or (dist.is_initialized() and "gloo" in str(error))


def is_no_meeting(error: RuntimeError) -> bool:
    """Whether the ranks never came together: their process group could not be made."""
    return not dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def described(note: StopNotice) -> str:
    """A note in a sentence."""
    if note.kind == "stop":
        return f"stopped by {note.reason} (rank {note.rank})"
    return f"rank {note.rank} failed first: {shown(note.reason, 400)}"
