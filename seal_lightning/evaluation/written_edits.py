"""Self-edits written down with what each means as a plan; nothing is trained (``seal predict``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import SelfEdit, Task
from seal_lightning.core.errors import MalformedEdit


def written_edits(runner: AttemptRunner, tasks: Sequence[Task], num_edits: int) -> list[dict[str, Any]]:
    """Self-edits of the current policy with the size of their plans, ready for JSON."""
    edits = runner.propose(tasks, num_edits, "predict")
    by_id = {task.task_id: task for task in tasks}
    return [_described(runner, by_id[edit.task_id], edit) for edit in edits]


def _described(runner: AttemptRunner, task: Task, edit: SelfEdit) -> dict[str, Any]:
    row: dict[str, Any] = {"task_id": edit.task_id, "edit_index": edit.edit_index, "seed": edit.seed}
    row |= {"text": edit.text, "finish_reason": edit.finish_reason}
    try:
        plan = runner.domain.plan(task, edit)
    except MalformedEdit as error:
        return row | {"malformed": str(error)}
    sequences = ["".join(segment.text for segment in sequence.segments) for sequence in plan.sequences]
    return row | {"sequences": sequences, "num_steps": plan.num_steps}
