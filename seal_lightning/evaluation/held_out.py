"""A test on held-out tasks in progress: its settings, this rank's results, and the matrices over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict
from torchmetrics import Metric

from seal_lightning.core import ConditionNames, ExamScores
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.evaluation_records import Arm, Cells, Condition, ConditionResult, ScoreMatrix
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.protocols import Episode

SCORES: dict[str, Callable[[ExamScores], float | None]] = {
    "accuracy": lambda scores: scores.accuracy,
    "log_prob": lambda scores: scores.log_prob,
}
"""The scores of matrices."""


class EpisodeMatrix(Metric):
    """Mean and spread of a score over episodes, by arm, step and place; summed over ranks.

    Cells that were not examined have n = 0 and are NaN, never 0.

    Args:
        arms: the conditions that adapt.
        num_steps: K, steps of an episode.
        num_places: tasks of an episode.
        score: a key of :data:`SCORES`.
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, arms: Sequence[Arm], num_steps: int, num_places: int, score: str) -> None:
        super().__init__()
        self.arms = list(arms)
        self.score = score
        shape = (len(self.arms), num_steps + 1, num_places)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, results: Sequence[ConditionResult]) -> None:
        """Add this rank's results; a task's several edits count as one observation, their mean.

        Scores before any step count for every arm of the same policy.
        """
        cells: dict[tuple[Arm, int, int, int], list[float]] = {}
        for result in results:
            value = SCORES[self.score](result.scores)
            if value is None:
                continue
            for arm in self._arms_of(result):
                cells.setdefault((arm, result.sequence, result.step, result.place), []).append(value)
        indices = {arm: i for i, arm in enumerate(self.arms)}
        for (arm, _, step, place), values in cells.items():
            mean = sum(values) / len(values)
            at = (indices[arm], step, place)
            self.total[at] += mean
            self.squares[at] += mean**2
            self.count[at] += 1

    def _arms_of(self, result: ConditionResult) -> list[Arm]:
        if result.condition is Condition.NO_ADAPTATION:
            return [arm for arm in self.arms if arm.round == result.round]
        return [result.arm] if result.arm in self.arms else []

    def compute(self) -> dict[str, Tensor]:
        """Return ``mean``, ``standard_deviation``, ``standard_error`` and ``n``, each [arms, steps + 1, places]."""
        n = self.count
        mean = self.total / n
        deviation = ((self.squares - n * mean**2).clamp(min=0) / (n - 1)).sqrt()
        return {"mean": mean, "standard_deviation": deviation, "standard_error": deviation / n.sqrt(), "n": n}

    def estimates(self, names: ConditionNames) -> list[ScoreMatrix]:
        """Return each arm's matrix, labelled by the domain's names. A collective."""
        found = dict(self.compute())  # torchmetrics keeps what it computed
        n = found.pop("n")
        least = {"mean": 1, "standard_deviation": 2, "standard_error": 2}
        return [
            ScoreMatrix(
                label=arm.label(names),
                score=self.score,
                condition=arm.condition,
                round=arm.round,
                name=arm.name,
                n=tuple(map(tuple, n[i].long().tolist())),
                **{name: _cells(values[i], n[i] < least[name]) for name, values in found.items()},
            )
            for i, arm in enumerate(self.arms)
        ]


def _cells(values: Tensor, unknown: Tensor) -> Cells:
    rows: Any = values.tolist()
    return tuple(
        tuple(None if missing else float(value) for value, missing in zip(row, gaps, strict=True))
        for row, gaps in zip(rows, unknown.tolist(), strict=True)
    )


class HeldOutTest(Module):
    """The results of one test. A module, so that its matrices move to the model's device.

    Args:
        evaluation: examines episodes.
        episodes: all of the protocol's, over all ranks.
        rounds: the policies that are tested, as :func:`rounds_to_test` returns them.
    """

    def __init__(self, evaluation: Evaluation, episodes: Sequence[Episode], rounds: Sequence[int]) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.rounds = rounds
        self.results: list[ConditionResult] = []
        """This rank's."""
        arms = evaluation.all_arms(rounds)
        num_steps = max((len(episode.steps) for episode in episodes), default=0)
        num_places = max((len(episode.tasks) for episode in episodes), default=0)
        self.matrices = ModuleDict({score: EpisodeMatrix(arms, num_steps, num_places, score) for score in SCORES})

    def examine(self, episodes: Sequence[Episode], round_index: int) -> None:
        """Examine episodes under every condition of one policy round; the policy must be that round's."""
        results = self.evaluation.examine_episodes(episodes, round_index, self.rounds[0])
        for matrix in self.matrices.values():
            cast(EpisodeMatrix, matrix).update(results)
        self.results += results

    def estimates(self) -> dict[str, list[ScoreMatrix]]:
        """Return the matrices over the episodes of all ranks, by score. A collective."""
        names = self.evaluation.runner.domain.condition_names
        return {name: cast(EpisodeMatrix, matrix).estimates(names) for name, matrix in self.matrices.items()}


def rounds_to_test(chosen: Collection[int] | None, num_finished: int) -> list[int]:
    """Return the rounds of the policies to test, the last one first: it sets the matched steps.

    None chooses all. Raises :class:`ConfigError` for a round that was not finished.
    """
    rounds = list(range(num_finished + 1)) if chosen is None else sorted(set(chosen))
    if strange := [r for r in rounds if not 0 <= r <= num_finished]:
        raise ConfigError(f"model.test_rounds: {strange[0]} is not allowed; the run has policies 0 to {num_finished}")
    return [*rounds[-1:], *rounds[:-1]]


def check_conditions(
    rounds: Collection[int] | None, conditions: Collection[str] | None, others: Collection[str]
) -> None:
    """Raise :class:`ConfigError` for conditions under which nothing would be measured.

    Args:
        rounds: the tested policies; None is all.
        conditions: those that were chosen; None is all there can be.
        others: names of other writers and outside adapters, which are tested on the pretrained policy.
    """
    if rounds is not None and not rounds:
        raise ConfigError("model.test_rounds: an empty list is not allowed; null tests every round")
    chosen = conditions or ()
    of_pretrained = [*others, *(name for name in (Condition.IN_CONTEXT, Condition.WITHOUT_EDIT) if name in chosen)]
    if rounds is not None and 0 not in rounds and of_pretrained:
        raise ConfigError(
            f"model.test_rounds: {list(rounds)} is not allowed with {of_pretrained[0]}, which is of the pretrained "
            "policy; add 0, or remove it"
        )
    if Condition.WITHOUT_EDIT_MATCHED in chosen and Condition.SELF_EDIT not in chosen:
        raise ConfigError(
            "model.test_conditions: without_edit_matched takes the steps of self_edit, which must be there too"
        )
