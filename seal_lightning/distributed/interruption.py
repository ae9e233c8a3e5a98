"""Ends a run in good order: on SIGTERM or SIGINT to any rank, and when another rank has failed.

Signals belong to the process, so this is a module's state and no object's. Inner loops and engines call :func:`check`
between their steps; it costs nothing where nobody listens.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from seal_lightning.core.errors import RankLost, StopRequested
from seal_lightning.distributed.coordination import RankCoordinator, StopNotice, described, gather_objects

T = TypeVar("T")

_board: RankCoordinator | None = None
_signal: signal.Signals | None = None
_ending = False
_also: list[Callable[[], None]] = []
_replaced: dict[signal.Signals, Any] = {}
"""The handlers that were there before :func:`listen`."""


def begin(board: RankCoordinator) -> None:
    """A run starts: its ranks share this board."""
    global _board, _signal, _ending
    _board, _signal, _ending = board, None, False
    for number in list(_replaced):
        if signal.getsignal(number) is not _receive:
            del _replaced[number]  # of an earlier run; it was put back


def listen() -> None:
    """Take SIGTERM and SIGINT from now on; a second one of either ends the process at once."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, _receive)
            if before is not _receive:
                _replaced.setdefault(number, before)  # the first one: Lightning puts its own in between


def end(leave_within_s: float = 2.0) -> None:
    """The run is over, or ends now: :func:`check` lets everything pass, and signals do what they did before.

    ``leave_within_s`` is how long rank 0, which keeps the board, waits for the others to see how it ended.
    """
    global _board, _signal, _ending
    if _board is not None:
        _board.leave(leave_within_s)
    _board, _signal, _ending = None, None, False
    for number, before in _replaced.items():
        if signal.getsignal(number) is _receive:
            signal.signal(number, before)


def called_off() -> bool:
    """Whether this rank was told to stop, or sees a note that some rank was."""
    if _board is None or _ending:
        return False
    if _signal is not None:
        _board.post(StopNotice(kind="stop", rank=_board.rank, reason=_signal.name))
    return _board.look(now=_signal is not None) is not None


@contextmanager
def checked_with(also: Callable[[], None]) -> Iterator[None]:
    """Inside this block :func:`check` calls this too."""
    _also.append(also)
    try:
        yield
    finally:
        _also.remove(also)


def check() -> None:
    """Raise :class:`StopRequested` or :class:`RankLost` when the run shall end; called between steps of long work."""
    for also in _also:
        also()
    if called_off():
        stop_together(True)


def stop_together(called_off_anywhere: bool) -> None:
    """Raise :class:`StopRequested` where some rank is to stop and every rank knows so, at the same step."""
    if not called_off_anywhere or _board is None:
        return
    note = _board.look(now=True)
    if note is None and _signal is not None:  # the board would not take it
        note = StopNotice(kind="stop", rank=_board.rank, reason=_signal.name)
    raise _error(note) if note is not None else RankLost("another rank was told to stop and cannot say how")


def fail(error: BaseException) -> None:
    """Tell the other ranks that this one has failed, and why."""
    if _board is not None and not isinstance(error, StopRequested | RankLost):
        reason = str(error) or type(error).__name__
        _board.post(StopNotice(kind="failure", rank=_board.rank, reason=reason.strip().split("\n", 1)[0]))


def first_cause() -> StopNotice | None:
    """What ended the run, where another rank knew it first."""
    if _board is None:
        return None
    try:
        return _board.look(now=True)
    except RankLost:
        return None


def wind_up(timeout_s: float) -> bool:
    """All ranks end together: True on all of them when every one came within the time. Nothing is checked after."""
    global _ending
    _ending = True
    return _board is None or _board.meet("end", lambda: False, timeout_s)


def gather(local: list[T]) -> list[T]:
    """The lists of all ranks joined, on every rank, once all of them are there; while waiting, a stop is heard.

    A collective: every rank must call it. Raises :class:`StopRequested` and :class:`RankLost`.
    """
    if _board is not None and not _ending and not _board.meet("gather", called_off):
        note = _board.look(now=True)
        raise _error(note) if note is not None else RankLost("another rank turned back")
    return gather_objects(local)


def _receive(number: int, frame: FrameType | None) -> None:
    global _signal
    if _board is None:  # Lightning puts this handler back behind a run that failed
        signal.signal(number, _replaced.get(signal.Signals(number), signal.SIG_DFL))
        os.kill(os.getpid(), number)
        return
    if _signal is not None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _signal = signal.Signals(number)


def _error(note: StopNotice) -> StopRequested | RankLost:
    if note.kind == "stop":
        return StopRequested(described(note), exit_code=128 + signal.Signals[note.reason])
    return RankLost(described(note))
