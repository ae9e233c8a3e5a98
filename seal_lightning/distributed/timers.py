"""A rank's time by activity."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Literal, get_args

from seal_lightning.core import RankPhase

Activity = Literal["propose", "adapt", "examine", "judge", "reinforce", "communicate", "idle"]
"""Writing edits; training adapters; exams; waiting for judges; steps of the M-step, exchange of gradients included; calls of
the key-value store; waiting for other ranks."""
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class TimeSplit:
    """Seconds by activity since the last :meth:`restart`; of nested activities only the outer one counts.

    Example:
        >>> split = TimeSplit()
        >>> with split.spent("adapt"):
        ...     pass
        >>> split.seconds()["adapt"] >= 0
        True
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Set all times to zero."""
        self._start = time.perf_counter()
        self._spent: dict[str, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._current: Activity | None = None

    @contextmanager
    def spent(self, activity: Activity) -> Iterator[None]:
        """Count the block's time as this activity. For one thread only."""
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
        """Return the seconds by activity, ``other`` included; they add up to the time since the last restart."""
        other = time.perf_counter() - self._start - sum(self._spent.values())
        return {**self._spent, "other": max(0.0, other)}


def time_shares(ranks: Sequence[RankPhase]) -> Mapping[str, float]:
    """Return each activity's share of the time of all ranks, 0 to 1; activities without time are skipped."""
    whole = max(sum(one.seconds for one in ranks), 1e-9)
    sums = {name: sum(one.split.get(name, 0.0) for one in ranks) for name in ranks[0].split}
    return {name: seconds / whole for name, seconds in sums.items() if seconds > 0}


def straggler(ranks: Sequence[RankPhase]) -> float:
    """Return the busy time of the slowest rank divided by the ranks' mean, minus 1; 0 for equal ranks."""
    busy = [one.busy_seconds for one in ranks]
    return max(busy) / max(fmean(busy), 1e-9) - 1
