"""The results of ``seal test``: printed, stored as ``results/test.json``, and logged to TensorBoard."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import TypeAdapter

from seal_lightning.core.estimates import Estimate, shown_estimate
from seal_lightning.core.evaluation_records import (
    ConditionResult,
    ConditionRow,
    EvaluationRecord,
    HeldOutQuestion,
    HeldOutTask,
    ProtocolRecord,
    ScoreMatrix,
    TestedModel,
)
from seal_lightning.evaluation import Protocol, SinglePassage
from seal_lightning.evaluation.reference_exams import gold_questions
from seal_lightning.reporting.condition_table import condition_table
from seal_lightning.reporting.document import Table, markdown_table, print_line, show_table
from seal_lightning.reporting.result_tables import NOTE, rows_table
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule

_RETENTION_NOTE = (
    "New learning: log-prob just after a task's own step less before any. Retained share: what is left of it after the last "
    "step, over tasks that were followed by others, with the jackknife's error; a dash where less than two standard errors "
    "were learned, or there was one sequence. Transfer: what other tasks' steps had added before its own; retained of own "
    "step: the share counted from there."
)


class ResultsTable(SealCallback):
    """Prints the results of ``seal test`` and stores them in ``results/test.json``.

    Example:
        >>> from seal_lightning.callbacks import ResultsTable
        >>> ResultsTable().state_key
        'ResultsTable'
    """

    __test__ = False  # pytest: not a test case

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Store and print the results on the first rank."""
        module = cast(SealModule, pl_module)
        rows = condition_table(results, module.domain.condition_names)
        if rows:  # for every logger, and for what `trainer.test` returns
            module.log_dict(_scalars(rows, module.protocol), add_dataloader_idx=False)
        if not trainer.is_global_zero or not rows:
            return
        record = evaluation_record(trainer, module, rows, results, time.perf_counter() - self._start)
        content = TypeAdapter(EvaluationRecord).dump_python(record, mode="json")
        path = RunDir.of(trainer).write_result("test", content)
        unit = "sequences" if module.protocol.merges else "tasks"
        table = rows_table(rows, f"Held-out tasks, {module.protocol.name}: mean ± standard error over {unit}")
        show_table(table)
        print_line(NOTE)
        if any(row.retention for row in rows):
            print_line(_RETENTION_NOTE)
        print_matrices(module.test_matrices)
        print_line(f"Per-task results and the edits: {path}")
        print_line(f"Charts: tensorboard --logdir {path.parent.parent}")
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_text("test/table", "\n".join(markdown_table(table)), 0)


def print_matrices(matrices: Mapping[str, Sequence[ScoreMatrix]]) -> None:
    """Print each matrix of several steps: the score of each task after each step."""
    for matrix in (matrix for of_score in matrices.values() for matrix in of_score):
        if len(matrix.mean) <= 2 or not any(map(any, matrix.n)):
            continue
        rows = []
        for step, (means, errors) in enumerate(zip(matrix.mean, matrix.standard_error, strict=True)):
            pairs = zip(means, errors, strict=True)
            cells = ["" if m is None else shown_estimate(Estimate(mean=m, standard_error=e)) for m, e in pairs]
            rows.append((f"step {step}" if step else "before", *cells))
        headings = ("after", *(f"task {place + 1}" for place in range(len(matrix.mean[0]))))
        title = f"{matrix.label}: {matrix.score} of each task after each step"
        show_table(Table(title=title, headings=headings, rows=tuple(rows)))


def evaluation_record(
    trainer: Trainer,
    module: SealModule,
    rows: Sequence[ConditionRow],
    results: Sequence[ConditionResult],
    seconds: float,
) -> EvaluationRecord:
    """Return a test as it is stored; ``seconds`` is the duration of the whole test."""
    episodes = module.test_episodes
    return EvaluationRecord(
        protocol=ProtocolRecord(
            name=module.protocol.name,
            class_name=type(module.protocol).__name__,
            settings=module.protocol.settings,
            num_steps=max(len(episode.steps) for episode in episodes),
            num_sequences=len(episodes),
        ),
        model=TestedModel(
            pretrained=module.pretrained.source,
            student=module.student.source if module.student is not None else None,
        ),
        inner_loop=type(module.inner_loop).__name__,
        edits_per_task=module.test_edits,
        seed=module.seed,
        world_size=trainer.world_size,
        device=str(module.device),
        seconds=seconds,
        peak_memory_bytes=_peak_memory(module.device),
        table=tuple(rows),
        matrices=tuple(matrix for of_score in module.test_matrices.values() for matrix in of_score),
        tasks=_tasks(trainer, module),
        results=tuple(results),
    )


def _tasks(trainer: Trainer, module: SealModule) -> dict[str, HeldOutTask]:
    found = {}
    for task in trainer.datamodule.tasks("test"):  # type: ignore[attr-defined]
        questions = gold_questions(module.domain, task)
        found[task.task_id] = HeldOutTask(
            context=module.domain.context_text(task),
            questions={
                q.question_id: HeldOutQuestion(question=q.question, gold=tuple(q.gold_answers)) for q in questions
            },
        )
    return found


def _peak_memory(device: torch.device) -> int:
    """Return the peak memory of the accelerator, or of this process, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes


def _scalars(rows: Sequence[ConditionRow], protocol: Protocol) -> dict[str, Any]:
    top = "test" if isinstance(protocol, SinglePassage) else f"test {protocol.name}"
    scalars: dict[str, Any] = {}
    for row in rows:
        place = f"{top}/{row.condition.value}{f' {row.name}' if row.name else ''}_round{row.round}"
        found = {name: getattr(row, name) for name in ("log_prob", "accuracy", "f1", "solved", "partial_credit")}
        if row.retention is not None:
            found |= {"new_learning": row.retention.new_learning, "retained_share": row.retention.retained_share}
        scalars |= {f"{place}/{name}": value.mean for name, value in found.items() if value is not None}
    return scalars
