"""What the callbacks for ARC share: a run's tasks, and the grids in stored answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from lightning.pytorch import Callback, Trainer

from seal_lightning.core import ExamScores
from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.grids import Grid, InvalidGrid, from_text
from seal_lightning.domains.arc.task import ArcTask
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.training.data_module import SealDataModule


def arc_tasks(trainer: Trainer, name: Literal["train", "validation", "test"], asked_by: Callback) -> Sequence[ArcTask]:
    """The run's loaded tasks. Raises :class:`ConfigError` when one is not ARC's."""
    tasks = cast(SealDataModule, trainer.datamodule).tasks(name)  # type: ignore[attr-defined]
    for task in tasks:
        if not isinstance(task, ArcTask):
            raise ConfigError(
                f"trainer.callbacks: {type(asked_by).__name__} is for ARC tasks, and data.{name} has a "
                f"{type(task).__name__}; take the callback out of trainer.callbacks, or a source of ARC tasks for the data"
            )
    return cast(Sequence[ArcTask], tasks)


def check_tasks(trainer: Trainer, asked_by: Callback) -> None:
    """Raise :class:`ConfigError` when any of the run's tasks is not ARC's: before hours of training, not after."""
    for name in ("train", "validation", "test"):
        arc_tasks(trainer, name, asked_by)


def final_results(results: Sequence[ConditionResult], condition: Condition) -> dict[str, list[ConditionResult]]:
    """By task id, the results under a condition of the policy that was trained for the most rounds, by edit."""
    final = max((result.round for result in results), default=0)
    found: dict[str, list[ConditionResult]] = {}
    for result in sorted(results, key=lambda r: r.edits[0].edit_index if r.edits else 0):
        if result.condition is condition and result.round == final:
            found.setdefault(result.task_id, []).append(result)
    return found


def first_adapted(results: Sequence[ConditionResult]) -> ConditionResult:
    """Of a task's results (at least one) the first that an adapter gave, else the first: no choice looks at the gold grid."""
    return next((result for result in results if result.failure is None), results[0])


def attempted_grids(scores: ExamScores) -> tuple[tuple[Grid | None, ...], ...]:
    """For each test input, in order, the attempts at it; None where an answer is no grid, nothing where none was asked."""
    return tuple(
        tuple(_grid(text) for text in (question.answer, *question.further_answers) if text is not None)
        for question in scores.questions
    )


def _grid(text: str) -> Grid | None:
    try:
        return from_text(text)
    except InvalidGrid:
        return None
