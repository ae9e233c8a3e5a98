"""Stored ARC answers, as the callbacks for ARC share them: a run's tasks, final results and attempted grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from lightning.pytorch import Callback, Trainer

from seal_lightning.core import ExamScores
from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.grids import ArcTask, Grid, InvalidGrid, from_text
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.training.data_module import SealDataModule


def arc_tasks(trainer: Trainer, name: Literal["train", "validation", "test"], asked_by: Callback) -> Sequence[ArcTask]:
    """Return the run's loaded tasks. Raises :class:`ConfigError` for a task of another domain."""
    tasks = cast(SealDataModule, trainer.datamodule).tasks(name)  # type: ignore[attr-defined]
    for task in tasks:
        if not isinstance(task, ArcTask):
            raise ConfigError(
                f"trainer.callbacks: {type(asked_by).__name__} is for ARC tasks, and data.{name} has a "
                f"{type(task).__name__}; take the callback out of trainer.callbacks"
            )
    return cast(Sequence[ArcTask], tasks)


def check_tasks(trainer: Trainer, asked_by: Callback) -> None:
    """Raise :class:`ConfigError` for tasks of another domain, before hours of training."""
    for name in ("train", "validation", "test"):
        arc_tasks(trainer, name, asked_by)


def final_results(results: Sequence[ConditionResult], condition: Condition) -> dict[str, list[ConditionResult]]:
    """Return the condition's results of the policy trained for the most rounds, by task id, in the order of edits."""
    final = max((result.round for result in results), default=0)
    found: dict[str, list[ConditionResult]] = {}
    for result in sorted(results, key=lambda r: r.edits[0].edit_index if r.edits else 0):
        if result.condition is condition and result.round == final:
            found.setdefault(result.task_id, []).append(result)
    return found


def first_adapted(results: Sequence[ConditionResult]) -> ConditionResult:
    """Return the first of a task's results (≥ 1) that an adapter gave, else the first: the gold grid plays no part."""
    return next((result for result in results if result.failure is None), results[0])


def attempted_grids(scores: ExamScores) -> tuple[tuple[Grid | None, ...], ...]:
    """Return the attempts at each test input, in order; None for an answer that is not a grid, none where ungenerated."""
    return tuple(
        tuple(_grid(text) for text in (question.answer, *question.further_answers) if text is not None)
        for question in scores.questions
    )


def _grid(text: str) -> Grid | None:
    try:
        return from_text(text)
    except InvalidGrid:
        return None
