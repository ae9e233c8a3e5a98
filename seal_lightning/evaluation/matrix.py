"""An episode's outcome as a matrix, steps + 1 by places: what is known of each task after each step.

Row 0 is before any step; cells that were not examined have n = 0 and are NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from seal_lightning.core import ExamScores
from seal_lightning.evaluation.conditions import Arm, Condition, ConditionResult

SCORES: dict[str, Callable[[ExamScores], float | None]] = {
    "accuracy": lambda scores: scores.accuracy,
    "log_prob": lambda scores: scores.log_prob,
}
"""What matrices are made of."""


@dataclass(frozen=True, kw_only=True)
class MatrixEstimate:
    """Over an arm's episodes; all [steps + 1][places]. None where nothing was measured."""

    arm: Arm
    mean: list[list[float | None]]
    standard_deviation: list[list[float | None]]
    """Over all episodes, of a sample (n − 1), as the paper pools it from its runs. None for n < 2."""
    standard_error: list[list[float | None]]
    n: list[list[int]]
    """Episodes."""


class EpisodeMatrix(Metric):
    """Mean and spread of a score over episodes, by arm, step and place; summed over ranks.

    Args:
        arms: the conditions that adapt.
        num_steps: K, steps of an episode.
        num_places: tasks of an episode.
        score: a task's number in [−∞, ∞]; None is left out.
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(
        self, arms: Sequence[Arm], num_steps: int, num_places: int, score: Callable[[ExamScores], float | None]
    ) -> None:
        super().__init__()
        self.arms = list(arms)
        self.score = score
        shape = (len(self.arms), num_steps + 1, num_places)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, results: Sequence[ConditionResult]) -> None:
        """Add this rank's results; a task's several edits count as one observation, their mean.

        What was measured before any step counts for every arm of the same policy.
        """
        cells: dict[tuple[Arm, int, int, int], list[float]] = {}
        for result in results:
            value = self.score(result.scores)
            if value is None:
                continue
            for arm in self._arms_of(result):
                cells.setdefault((arm, result.sequence, result.step, result.place), []).append(value)
        places = {arm: i for i, arm in enumerate(self.arms)}
        for (arm, _, step, place), values in cells.items():
            mean = sum(values) / len(values)
            at = (places[arm], step, place)
            self.total[at] += mean
            self.squares[at] += mean**2
            self.count[at] += 1

    def _arms_of(self, result: ConditionResult) -> list[Arm]:
        if result.condition is Condition.NO_ADAPTATION:
            return [arm for arm in self.arms if arm.round == result.round]
        return [result.arm] if result.arm in self.arms else []

    def compute(self) -> dict[str, Tensor]:
        """Over all ranks, each [arms, steps + 1, places]: ``mean``, ``standard_deviation``, ``standard_error``, ``n``."""
        n = self.count
        mean = self.total / n
        deviation = ((self.squares - n * mean**2).clamp(min=0) / (n - 1)).sqrt()
        return {"mean": mean, "standard_deviation": deviation, "standard_error": deviation / n.sqrt(), "n": n}

    def estimates(self) -> list[MatrixEstimate]:
        """What :meth:`compute` gives, arm by arm, for a reader. A collective."""
        found = dict(self.compute())  # torchmetrics keeps what it computed
        n = found.pop("n")
        least = {"mean": 1, "standard_deviation": 2, "standard_error": 2}
        return [
            MatrixEstimate(
                arm=arm,
                n=n[i].long().tolist(),
                **{name: _numbers(values[i], n[i] < least[name]) for name, values in found.items()},
            )
            for i, arm in enumerate(self.arms)
        ]


def _numbers(values: Tensor, unknown: Tensor) -> list[list[float | None]]:
    rows: Any = values.tolist()
    return [
        [None if missing else float(value) for value, missing in zip(row, gaps, strict=True)]
        for row, gaps in zip(rows, unknown.tolist(), strict=True)
    ]
