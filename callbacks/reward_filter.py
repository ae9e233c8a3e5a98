"""Reward filters: which attempts of a task are worth imitating (ReST-EM's E-step keeps, §3.1).

One filter stands among the trainer's callbacks; :class:`RestEmBuffer` asks it at the end of each E-step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from lightning.pytorch import Callback

from seal_lightning.core import Candidate
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError


class RewardFilter(Configurable, Callback, ABC):
    """Picks candidates by reward. Of all filters it holds: nothing malformed, diverged or unscored is ever picked."""

    def select(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates to imitate, task by task in the order given, best first; ties go to the lowest edit index."""
        tasks = dict.fromkeys(candidate.task_id for candidate in candidates)
        eligible = [c for c in candidates if c.reward is not None and math.isfinite(c.reward)]
        ranked = sorted(eligible, key=lambda c: (-_reward(c), c.edit_index))
        chosen = self.choose(ranked)
        return [candidate for task in tasks for candidate in chosen if candidate.task_id == task]

    @abstractmethod
    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Those to keep of all tasks' eligible candidates, which come best first; keep that order."""


class BestOfK(RewardFilter):
    """The best edits of each task: the paper's filter with k = 1.

    Args:
        k: ≥ 1, edits kept a task.
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise ConfigError(f"BestOfK.k: {k} is not allowed; it must be at least 1")
        self.k = k

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """The first ``k`` of each task."""
        return [c for c in ranked if _by_task(ranked, c.task_id).index(c) < self.k]


class TopFraction(RewardFilter):
    """The best share of all edits of all tasks.

    Args:
        fraction: in (0, 1]; at least one edit is kept.
    """

    def __init__(self, fraction: float = 0.2) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"TopFraction.fraction: {fraction} is not allowed; it must be in (0, 1]")
        self.fraction = fraction

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """The first ⌊fraction · n⌋ (at least one) over all tasks."""
        return ranked[: max(1, math.floor(self.fraction * len(ranked) + 1e-9))]


class AboveThreshold(RewardFilter):
    """Every edit whose reward is above a number: with a binary reward and 0.5, those that succeed (few-shot, §4.1).

    Args:
        threshold: rewards must be strictly above it.
    """

    def __init__(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise ConfigError(f"AboveThreshold.threshold: {threshold} is not allowed; it must be finite")
        self.threshold = threshold

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """All above the threshold."""
        return [c for c in ranked if _reward(c) > self.threshold]


class Improves(RewardFilter):
    """The best edits of each task that beat the task's own score without adaptation.

    Args:
        k: ≥ 1, edits kept a task at most.
        margin: ≥ 0, by how much the gain (``after`` less ``before`` in the reward's breakdown) must exceed zero.
    """

    def __init__(self, k: int = 1, margin: float = 0.0) -> None:
        if k < 1 or not 0 <= margin < math.inf:
            raise ConfigError(
                f"Improves: k={k}, margin={margin} is not allowed; k must be at least 1, margin at least 0"
            )
        self.k = k
        self.margin = margin

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """The first ``k`` of each task among those that improve."""
        better = [c for c in ranked if (gain := _mean_gain(c)) is not None and gain > self.margin]
        return [c for c in better if _by_task(better, c.task_id).index(c) < self.k]


class FunctionFilter(RewardFilter):
    """A filter from a plain function.

    Args:
        function: gets the eligible candidates of all tasks, best first, and returns those to keep.

    Example:
        >>> FunctionFilter(lambda ranked: ranked[:10]).choose([])
        []
    """

    def __init__(self, function: Callable[[list[Candidate]], list[Candidate]]) -> None:
        self.function = function

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return what the function keeps, in rank order. Raises :class:`ConfigError` for anything but given candidates."""
        given = {(c.task_id, c.edit_index): c for c in ranked}
        kept = self.function(list(ranked))
        if not all(isinstance(c, Candidate) and given.get((c.task_id, c.edit_index)) is c for c in kept):
            raise ConfigError("FunctionFilter.function must return a list of candidates that it was given")
        names = {(c.task_id, c.edit_index) for c in kept}
        return [candidate for name, candidate in given.items() if name in names]


def _reward(candidate: Candidate) -> float:
    assert candidate.reward is not None
    return candidate.reward


def _by_task(candidates: list[Candidate], task_id: str) -> list[Candidate]:
    return [c for c in candidates if c.task_id == task_id]


def _mean_gain(candidate: Candidate) -> float | None:
    """Mean over the repeats of after − before; None where a reward does not report both."""
    gains = [
        a.reward_breakdown["after"] - a.reward_breakdown["before"]
        for a in candidate.attempts
        if {"after", "before"} <= a.reward_breakdown.keys()
    ]
    return sum(gains) / len(gains) if gains else None
