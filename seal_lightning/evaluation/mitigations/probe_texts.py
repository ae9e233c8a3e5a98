"""Contexts of further tasks as texts that a model is to keep; their questions are never asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from seal_lightning.core import Task, TrainingSequence
from seal_lightning.core.errors import DataError, MalformedEdit, shown
from seal_lightning.core.interfaces import AnyDomain, TaskSource

_logger = logging.getLogger(__name__)


def check_apart(source: TaskSource | None, learned: Sequence[Task]) -> None:
    """Raise :class:`DataError` where a text is also learned: to be held to what one is to learn is to learn nothing."""
    both = sorted({task.task_id for task in source.load()} & {task.task_id for task in learned}) if source else []
    if both:
        raise DataError(
            f"against_forgetting: texts ({type(source).__name__}) has {len(both)} tasks that the test learns too, such as "
            f"{shown(both[0])}; they must be apart. Nothing was computed. Take another split or file for one of them"
        )


def context_texts(domain: AnyDomain, source: TaskSource | None) -> tuple[TrainingSequence, ...]:
    """The sequences that the tasks' contexts alone would be trained as; none where there is no source.

    Raises :class:`DataError` where the source cannot be read or gives nothing that could be trained on.
    """
    if source is None:
        return ()
    tasks, name = source.load(), type(source).__name__
    found: list[TrainingSequence] = []
    empty = 0
    for task in tasks:
        try:
            found += domain.plan_without_edit(task).sequences
        except MalformedEdit:
            empty += 1
    if not found:
        raise DataError(
            f"against_forgetting: texts ({name}): none of its {len(tasks)} contexts gives a training sequence in "
            f"{type(domain).__name__}, so nothing could be kept. Nothing was computed. Take other texts, or leave them out"
        )
    if empty:
        _logger.warning(
            "against_forgetting: %d of %d texts give no training sequence and are left out", empty, len(tasks)
        )
    return tuple(dict.fromkeys(found))
