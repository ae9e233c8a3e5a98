"""Where a rank's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Activity = Literal["propose", "adapt", "examine", "judge", "reinforce", "communicate", "idle"]
"""Writing edits; training adapters; exams; waiting for judges; steps of the M-step, gradients exchanged; talking to other
ranks; waiting for them."""
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class TimeSplit:
    """Seconds by activity since the last :meth:`restart`; of activities within others only the outer one counts."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was spent."""
        self._start = time.perf_counter()
        self._spent: dict[str, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._current: Activity | None = None

    @contextmanager
    def spent(self, activity: Activity) -> Iterator[None]:
        """What happens inside this block is this activity. For one thread only."""
        if self._current is not None:
            yield
            return
        self._current, start = activity, time.perf_counter()
        try:
            yield
        finally:
            self._spent[activity] += time.perf_counter() - start
            self._current = None

    def seconds(self) -> dict[str, float]:
        """By activity, ``other`` included; they add up to the time since the last restart."""
        other = time.perf_counter() - self._start - sum(self._spent.values())
        return {**self._spent, "other": max(0.0, other)}
