"""Callback that writes a submission to Kaggle's ARC competitions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.text import Text

from seal_lightning.callbacks.arc_answers import (
    arc_tasks,
    attempted_grids,
    check_tasks,
    final_results,
    first_adapted,
)
from seal_lightning.domains.arc.grids import Grid
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback

NO_GRID: Grid = ((0,),)
"""Kaggle requires a grid for every test input."""


class ArcSubmission(SealCallback):
    """Writes ``results/submission.json`` from the attempts at the held-out tasks after the final policy's self-edits.

    ``{task id: [{"attempt_1": rows, "attempt_2": rows}, … one for each test input]}``. A single grid is
    both attempts; without a grid, or for an unexamined task, both are ``[[0]]``. Of several edits, the first counts that an
    adapter could be trained on.

    Example:
        >>> ArcSubmission().state_key
        'ArcSubmission'

    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`ConfigError` for tasks of another domain."""
        check_tasks(trainer, self)

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Write the file and print its path."""
        edited = final_results(results, Condition.SELF_EDIT)
        if not trainer.is_global_zero or not results:
            return
        if not edited:
            Console().print("No Kaggle submission was written: the test did not try self-edits")
            return
        submission, num_inputs, num_missing = {}, 0, 0
        for task in arc_tasks(trainer, "test", self):
            tried = edited.get(task.task_id)
            attempts = attempted_grids(first_adapted(tried).scores) if tried else ()
            by_test = [attempts[number] if number < len(attempts) else () for number in range(len(task.tests))]
            submission[task.task_id] = [_entry(grids) for grids in by_test]
            num_inputs += len(by_test)
            num_missing += sum(not any(grids) for grids in by_test)
        path = RunDir.of(trainer).write_text_result("submission", "json", json.dumps(submission))
        missing = f"; for {num_missing} of {num_inputs} test inputs there is no grid, and [[0]] stands for it"
        Console().print(Text(f"Kaggle submission: {path}{missing if num_missing else ''}"), soft_wrap=True)


def _entry(attempts: Sequence[Grid | None]) -> dict[str, Grid]:
    grids = [grid for grid in attempts if grid is not None] or [NO_GRID]
    return {"attempt_1": grids[0], "attempt_2": grids[1] if len(grids) > 1 else grids[0]}
