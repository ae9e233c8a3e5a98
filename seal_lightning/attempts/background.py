"""Waiting for a judge elsewhere while the model works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from seal_lightning.distributed import interruption

T = TypeVar("T")

_LOOK_EVERY_S = 0.1


class BackgroundStage(Generic[T]):
    """One call in a thread of its own, from now on.

    The thread is a daemon: a run that is told to stop does not wait for a judge's answer.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="judging", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def result(self) -> T:
        """What the call returned, waited for; or its error. While waiting, a stop is heard."""
        while self._thread.is_alive():
            interruption.check()
            self._thread.join(_LOOK_EVERY_S)
        if self._error is not None:
            raise self._error
        return self._results[0]
