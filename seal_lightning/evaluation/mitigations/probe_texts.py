"""Contexts of further tasks as texts that a model is to keep; their questions are never asked."""

from __future__ import annotations

from seal_lightning.errors import MalformedEdit
from seal_lightning.seams import AnyDomain, TaskSource
from seal_lightning.types import TrainingSequence


def context_texts(domain: AnyDomain, source: TaskSource | None) -> tuple[TrainingSequence, ...]:
    """The sequences that the tasks' contexts alone would be trained as; none where there is no source.

    Raises :class:`DataError` where the source cannot be read.
    """
    found: list[TrainingSequence] = []
    for task in source.load() if source is not None else ():
        try:
            found += domain.plan_without_edit(task).sequences
        except MalformedEdit:
            continue  # a context that gives nothing to train on says nothing either
    return tuple(dict.fromkeys(found))
