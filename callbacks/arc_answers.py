"""What the callbacks for ARC share: a run's tasks, and the grids in stored answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from lightning.pytorch import Callback, Trainer

from seal_lightning.datamodule import SealDataModule
from seal_lightning.domains.arc.grids import MAX_SIDE, Grid, InvalidGrid, from_text
from seal_lightning.domains.arc.task import ArcTask
from seal_lightning.errors import ConfigError
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.types import ExamScores

_MOST_CHARACTERS = MAX_SIDE * (MAX_SIDE + 1)
"""Of a grid as text. A stored answer may be of any length, and millions of lines take seconds to be refused."""


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


def final_results(results: Sequence[ConditionResult], condition: Condition) -> dict[str, ConditionResult]:
    """By task id, the results under a condition of the policy that was trained for the most rounds."""
    final = max((result.round for result in results), default=0)
    return {r.task_id: r for r in results if r.condition is condition and r.round == final}


def attempted_grids(scores: ExamScores) -> tuple[tuple[Grid | None, ...], ...]:
    """For each test input, in order, the attempts at it; None where an answer is no grid, nothing where none was asked."""
    return tuple(
        tuple(_grid(text) for text in (question.answer, *question.further_answers) if text is not None)
        for question in scores.questions
    )


def _grid(text: str) -> Grid | None:
    if len(text) > _MOST_CHARACTERS:
        return None
    try:
        return from_text(text)
    except InvalidGrid:
        return None
