"""Reward filters: callbacks that pick the edits worth imitating (ReST-EM's E-step keeps, §3.1).

A trainer has one of them; :class:`RestEmBuffer` applies it at the end of each E-step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from lightning.pytorch import Callback

from seal_lightning.core import Candidate
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError
from seal_lightning.scoring.selection import first_per_task, in_task_order, mean_gain, ranked


class RewardFilter(Configurable, Callback, ABC):
    """A filter of candidates by reward; malformed, diverged and unscored edits are never kept.

    Example:
        >>> from seal_lightning.core import Attempt, AttemptStatus, SelfEdit
        >>> class Everything(RewardFilter):
        ...     def choose(self, ranked):
        ...         return ranked
        >>> edit = SelfEdit(task_id="a", edit_index=0, text="")
        >>> status = AttemptStatus.DIVERGED
        >>> attempt = Attempt(attempt_id="x", round=0, repeat=0, seed=0, edit=edit, status=status)
        >>> Everything().select([Candidate(task_id="a", edit_index=0, attempts=(attempt,))])
        []
    """

    def select(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates to imitate, task by task in the order given, best first; ties go to the lowest edit index."""
        return in_task_order(self.choose(ranked(candidates)), candidates)

    @abstractmethod
    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return those to keep of all tasks' eligible candidates, which come best first; keep that order."""


class BestOfK(RewardFilter):
    """The best edits of each task: the paper's filter with k = 1.

    Args:
        k: ≥ 1, edits kept per task.

    Example:
        >>> BestOfK(k=2).k
        2
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise ConfigError(f"BestOfK.k: {k} is not allowed; it must be at least 1")
        self.k = k

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return the first ``k`` of each task."""
        return first_per_task(ranked, self.k)


class TopFraction(RewardFilter):
    """The best fraction of all edits of all tasks.

    Args:
        fraction: in (0, 1]; at least one edit is kept.

    Example:
        >>> TopFraction(0.25).fraction
        0.25
    """

    def __init__(self, fraction: float = 0.2) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"TopFraction.fraction: {fraction} is not allowed; it must be in (0, 1]")
        self.fraction = fraction

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return the first ⌊fraction · n⌋ (at least one) over all tasks."""
        return ranked[: max(1, math.floor(self.fraction * len(ranked) + 1e-9))]


class AboveThreshold(RewardFilter):
    """Every edit whose reward is above a number: with a binary reward and 0.5, those that succeed (few-shot, §4.1).

    Args:
        threshold: rewards must be strictly above it.

    Example:
        >>> AboveThreshold(0.5).choose([])
        []
    """

    def __init__(self, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise ConfigError(f"AboveThreshold.threshold: {threshold} is not allowed; it must be finite")
        self.threshold = threshold

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return all above the threshold."""
        return [c for c in ranked if (reward := c.reward) is not None and reward > self.threshold]


class Improves(RewardFilter):
    """The best edits of each task that beat the task's own score without adaptation.

    Args:
        k: ≥ 1, edits kept per task at most.
        margin: ≥ 0, by how much the gain (``after`` less ``before`` in the reward's breakdown) must exceed zero.

    Example:
        >>> Improves(k=1, margin=0.05).margin
        0.05
    """

    def __init__(self, k: int = 1, margin: float = 0.0) -> None:
        if k < 1 or not 0 <= margin < math.inf:
            raise ConfigError(
                f"Improves: k={k}, margin={margin} is not allowed; k must be at least 1, margin at least 0"
            )
        self.k = k
        self.margin = margin

    def choose(self, ranked: list[Candidate]) -> list[Candidate]:
        """Return the first ``k`` of each task among those that improve."""
        better = [c for c in ranked if (gain := mean_gain(c)) is not None and gain > self.margin]
        return first_per_task(better, self.k)


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
