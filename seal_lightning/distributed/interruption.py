"""Orderly ends of a run: on SIGTERM or SIGINT to any rank, and when another rank has failed.

Signals belong to the process, so the state is this module's. Inner loops and engines call :func:`check` between their
steps; outside of a run it does nothing.
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
from seal_lightning.distributed.coordination import RankCoordinator, StopNotice, gather_objects

T = TypeVar("T")

_coordinator: RankCoordinator | None = None
_signal: signal.Signals | None = None
_ending = False
_extra_checks: list[Callable[[], None]] = []
_replaced: dict[signal.Signals, Any] = {}
"""The handlers from before :func:`install_handlers`."""


def start(coordinator: RankCoordinator) -> None:
    """Begin a run whose ranks share this coordinator."""
    global _coordinator, _signal, _ending
    _coordinator, _signal, _ending = coordinator, None, False
    for number in list(_replaced):
        if signal.getsignal(number) is not _receive:
            del _replaced[number]  # of an earlier run, and restored already


def install_handlers() -> None:
    """Handle SIGTERM and SIGINT from now on; a second one of either ends the process at once."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, _receive)
            if before is not _receive:
                _replaced.setdefault(number, before)  # the first one: Lightning installs its own in between


def finish(leave_within_s: float = 2.0) -> None:
    """End the run: :func:`check` does nothing any more, and signals do what they did before.

    ``leave_within_s`` is how long rank 0, which keeps the store, waits for the others to see how the run ended.
    """
    global _coordinator, _signal, _ending
    if _coordinator is not None:
        _coordinator.leave(leave_within_s)
    _coordinator, _signal, _ending = None, None, False
    for number, before in _replaced.items():
        if signal.getsignal(number) is _receive:
            signal.signal(number, before)


def stop_requested() -> bool:
    """Return True if this rank got a signal, or any rank has posted a notice."""
    if _coordinator is None or _ending:
        return False
    if _signal is not None:
        _coordinator.post(StopNotice(kind="stop", rank=_coordinator.rank, reason=_signal.name))
    return _coordinator.poll(now=_signal is not None) is not None


@contextmanager
def extra_check(callback: Callable[[], None]) -> Iterator[None]:
    """Let :func:`check` call this too, within this block."""
    _extra_checks.append(callback)
    try:
        yield
    finally:
        _extra_checks.remove(callback)


def check() -> None:
    """Raise :class:`StopRequested` or :class:`RankLost` when the run must end; called between steps of long work."""
    for callback in _extra_checks:
        callback()
    raise_if_stopped(stop_requested())


def raise_if_stopped(stopped: bool) -> None:
    """Raise :class:`StopRequested` or :class:`RankLost` with the notice, where ``stopped`` is True on all ranks."""
    if not stopped or _coordinator is None:
        return
    notice = _coordinator.poll(now=True)
    if notice is None and _signal is not None:  # the store did not take this rank's own notice
        notice = StopNotice(kind="stop", rank=_coordinator.rank, reason=_signal.name)
    raise _error(notice) if notice is not None else RankLost("another rank was stopped and left no notice")


def report_failure(error: BaseException) -> None:
    """Post this rank's failure for the other ranks, unless the error only reports a stop."""
    if _coordinator is not None and not isinstance(error, StopRequested | RankLost):
        reason = str(error) or type(error).__name__
        reason = reason.strip().split("\n", 1)[0]
        _coordinator.post(StopNotice(kind="failure", rank=_coordinator.rank, reason=reason))


def posted_notice() -> StopNotice | None:
    """Return the notice that ended the run, if one was posted and can be read."""
    if _coordinator is None:
        return None
    try:
        return _coordinator.poll(now=True)
    except RankLost:
        return None


def finish_together(timeout_s: float) -> bool:
    """Return True on all ranks when every one came here within the time. :func:`check` does nothing after this."""
    global _ending
    _ending = True
    return _coordinator is None or _coordinator.meet("end", lambda: False, timeout_s)


def gather(local: list[T]) -> list[T]:
    """Concatenate the lists of all ranks, on every rank, once all of them came; a stop ends the wait.

    A collective: every rank must call it. Raises :class:`StopRequested` and :class:`RankLost`.
    """
    if _coordinator is not None and not _ending and not _coordinator.meet("gather", stop_requested):
        notice = _coordinator.poll(now=True)
        raise _error(notice) if notice is not None else RankLost("another rank left the meeting")
    return gather_objects(local)


def _receive(number: int, frame: FrameType | None) -> None:
    global _signal
    if _coordinator is None:  # Lightning restores this handler after a run that failed
        signal.signal(number, _replaced.get(signal.Signals(number), signal.SIG_DFL))
        os.kill(os.getpid(), number)
        return
    if _signal is not None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _signal = signal.Signals(number)


def _error(notice: StopNotice) -> StopRequested | RankLost:
    if notice.kind == "stop":
        return StopRequested(str(notice), exit_code=128 + signal.Signals[notice.reason])
    return RankLost(str(notice))
