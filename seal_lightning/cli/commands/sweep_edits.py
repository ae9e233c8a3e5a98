"""The edits of a sweep: those a run has stored, written now, of another writer, or the context alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal_lightning.core import AttemptStatus, SelfEdit, Task
from seal_lightning.core.errors import ConfigError, MalformedEdit, RunError, shown
from seal_lightning.evaluation.sweeping import GivenEdit
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

SOURCES = ("stored", "own", "passage", "writer")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What has no part in a sweep, because nothing can be trained on it under any setting."""

    task_id: str
    reason: str


def given_edits(
    source: str, num_edits: int, run: RunDir | None, module: SealModule, tasks: Sequence[Task]
) -> tuple[list[GivenEdit], list[LeftOut]]:
    """Up to ``num_edits`` edits for each task with their plans, lowest index first, and what was left out.

    Raises :class:`RunError` when nothing is left, :class:`ConfigError` for a writer that the configuration does not have.
    """
    edits = _edits(source, num_edits, run, module, tasks)
    by_task: dict[str, dict[int, SelfEdit]] = {task.task_id: {} for task in tasks}
    for edit in edits:
        if edit.task_id in by_task:
            by_task[edit.task_id].setdefault(edit.edit_index, edit)
    given, left_out = [], []
    for task in tasks:
        found = [edit for _, edit in sorted(by_task[task.task_id].items())][:num_edits]
        if not found:
            left_out.append(LeftOut(task_id=task.task_id, reason="no edit"))
        for edit in found:
            try:
                without = source == "passage"
                plan = module.domain.plan_without_edit(task) if without else module.domain.plan(task, edit)
            except MalformedEdit as error:
                left_out.append(LeftOut(task_id=task.task_id, reason=f"edit {edit.edit_index} is malformed: {error}"))
            else:
                given.append(GivenEdit(task=task, edit=edit, plan=plan))
    if not given:
        first = left_out[0]
        raise RunError(
            f"--edits {source}: none of {len(tasks)} tasks has an edit to train on; of {shown(first.task_id)}: "
            f"{shown(first.reason)}. Nothing was computed. Name other edits, for instance --edits passage"
        )
    return given, left_out


def _edits(
    source: str, num_edits: int, run: RunDir | None, module: SealModule, tasks: Sequence[Task]
) -> list[SelfEdit]:
    if source == "passage":
        return [SelfEdit(task_id=t.task_id, edit_index=0, text=module.domain.context_text(t)) for t in tasks]
    if source == "stored":
        assert run is not None
        return _stored(run, tasks)
    if source == "own":
        return list(module.runner.propose(tasks, num_edits, "sweep"))
    name = source.partition(":")[2]
    if name not in module.test_writers:
        raise ConfigError(
            f"--edits {shown(source)} is not allowed; model.test_writers has "
            f"{', '.join(map(shown, module.test_writers)) or 'none'}"
        )
    return list(module.runner.propose(tasks, num_edits, "sweep", module.test_writers[name]))


def _stored(run: RunDir, tasks: Sequence[Task]) -> list[SelfEdit]:
    """What the first round tried, malformed edits aside: those of later rounds are another policy's."""
    attempts = [a for a in AttemptStore(run.round(0)).all() if a.status is not AttemptStatus.MALFORMED]
    known = {attempt.task_id for attempt in attempts}
    if not any(task.task_id in known for task in tasks):
        raise RunError(
            f"--edits stored: {run.round(0)} has no edits of these tasks, only of those of the E-step (--tasks train). "
            "Nothing was computed. Name other edits: --edits own has them written now, --edits passage needs none"
        )
    return [attempt.edit for attempt in attempts]
