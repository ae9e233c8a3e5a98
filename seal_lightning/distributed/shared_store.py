"""The key-value store of a run's process group: messages between ranks without a collective."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from seal_lightning.core.errors import RankLost

PULSE_EVERY_S = 2.0
DEAD_WITHOUT_PULSE_S = 60.0
"""A thread gives the pulse, also while the rank computes: without a pulse the process or its host is gone."""
_CLOSES_WITHIN_S = 2.0


class SharedStore:
    """The store that the default process group was made with, called from a thread.

    torch's own time-outs do not end a call when the process that keeps the store is stopped (SIGSTOP) or its host is cut
    off. So a thread makes the calls, and here every call raises :class:`RankLost` after ``timeout_s``.

    Args:
        prefix: keeps these keys apart from others; the same on every rank.
        timeout_s: how long rank 0, which keeps the store, may be silent; a minute at most, because its store answers at
            once whatever the rank computes.
        pulse: the key of a counter that goes up while this process lives; None for none.
    """

    def __init__(self, prefix: str, timeout_s: float, pulse: str | None = None) -> None:
        # torchrun may keep one store for all restarts, with the keys of those that ended before.
        start = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}of{os.environ.get('WORLD_SIZE', 0)}"
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.distributed_c10d.PrefixStore(f"{prefix}/{start}", store)
        self._pulse = pulse
        self.timeout_s = min(timeout_s, DEAD_WITHOUT_PULSE_S)
        self._lost: RankLost | None = None
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name="seal-store")
        self._thread.start()

    def set(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        self._call(self._store.set, key, value)

    def get(self, key: str) -> bytes:
        """Return a key's value; only for a key that :meth:`check` has found, else torch waits for it."""
        return bytes(self._call(self._store.get, key))

    def check(self, keys: list[str]) -> bool:
        """Return True if all these keys are set."""
        return bool(self._call(self._store.check, keys))

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Set a key where its value is as expected (empty: not set); return its value after that."""
        return bytes(self._call(self._store.compare_set, key, expected, value))

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which starts at 0, and return it. No two ranks get the same number."""
        return int(self._call(self._store.add, key, amount))

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._call(self._store.delete_key, key)

    def close(self) -> None:
        """End the thread: one that is within a call when the process ends would crash it."""
        self._calls.put(None)
        self._thread.join(_CLOSES_WITHIN_S)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._lost is not None:
            raise self._lost
        self._calls.put((function, arguments))
        try:
            answer = self._answers.get(timeout=self.timeout_s)
        except queue.Empty:
            self._lost = RankLost(
                f"rank 0 has given no sign of life for {self.timeout_s:.0f} s: it was stopped, or its host is down or cut off"
            )
            raise self._lost from None
        if isinstance(answer, dist.DistError):
            self._lost = RankLost("rank 0 can no longer be reached: it was killed or its machine is down")
            raise self._lost
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        beat = 0.0
        while True:
            if self._pulse is not None and time.monotonic() - beat > PULSE_EVERY_S:
                beat = time.monotonic()
                with suppress(Exception):  # the next call reports it
                    self._store.add(self._pulse, 1)
            try:
                call = self._calls.get(timeout=None if self._pulse is None else PULSE_EVERY_S)
            except queue.Empty:
                continue
            if call is None:
                return
            function, arguments = call
            try:
                answer = function(*arguments)
            except Exception as error:  # noqa: BLE001 - raised by the thread that called
                answer = error
            self._answers.put(answer)
