"""The test's table: in the terminal, as JSON, and in TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from seal_lightning.callbacks.results_record import test_record
from seal_lightning.core import ConditionNames
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.core.forgetting_curve import Retention
from seal_lightning.evaluation import ConditionResult, ConditionRow, Protocol, SinglePassage, condition_table
from seal_lightning.evaluation.matrix import MatrixEstimate
from seal_lightning.evaluation.table import arm_label
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule

_MIN_WIDTH = 200
_NOTHING = "–"

_NO_RETENTION = Retention(new_learning=None, retained_share=None, transfer=None, specific_share=None)


def _of(row: ConditionRow) -> Retention:
    return row.retention or _NO_RETENTION


Cell = Callable[[ConditionRow], str]
COLUMNS: dict[str, Cell] = {
    "condition": lambda row: row.label,
    "n": lambda row: f"{row.num_tasks} ({row.num_questions} q)",
    "log-prob": lambda row: shown_estimate(row.log_prob, 2),
    "accuracy": lambda row: shown_estimate(row.accuracy, 3),
    "F1": lambda row: shown_estimate(row.f1, 3),
    "log-prob after own step": lambda row: shown_estimate(row.log_prob_after_own_step, 2),
    "accuracy after own step": lambda row: shown_estimate(row.accuracy_after_own_step, 3),
    "solved": lambda row: shown_estimate(row.solved if row.partial_credit else None, 3),
    "cells right": lambda row: shown_estimate(row.partial_credit, 3),
    "new learning": lambda row: shown_estimate(_of(row).new_learning, 2, signed=True),
    "retained share": lambda row: shown_estimate(_of(row).retained_share, 2),
    "transfer": lambda row: shown_estimate(_of(row).transfer, 2, signed=True),
    "retained of own step": lambda row: shown_estimate(_of(row).specific_share, 2),
    "steps": lambda row: f"{row.num_steps.mean:.1f}",
    "vs equal steps": lambda row: shown_estimate(row.log_prob_vs_matched, 2, signed=True),
    "vs untrained": lambda row: shown_estimate(row.log_prob_vs_untrained, 2, signed=True),
    "failed": lambda row: str(row.num_failed),
    "unscored": lambda row: str(row.num_unscored) if row.num_unscored else _NOTHING,
    "merges": lambda row: (
        f"{row.num_scaled} scaled, {row.num_refused} refused of {row.num_merges}" if row.num_merges else _NOTHING
    ),
    "invalid": lambda row: (
        f"{row.num_invalid} of {row.num_views}" if row.partial_credit or row.num_invalid else _NOTHING
    ),
}
"""By heading; a column with nothing in any row is left out."""


class ResultsTable(SealCallback):
    """Shows and keeps the results of ``seal test`` in ``results/test.json``."""

    __test__ = False  # pytest: not a test case

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Write and print on the first rank."""
        module = cast(SealModule, pl_module)
        names = module.domain.condition_names
        rows = condition_table(results, names)
        if rows:  # for every logger, and for what `trainer.test` returns
            module.log_dict(_scalars(rows, module.protocol), add_dataloader_idx=False)
        if not trainer.is_global_zero or not rows:
            return
        content = test_record(trainer, module, rows, results, time.perf_counter() - self._start)
        path = RunDir.of(trainer).write_result("test", content)
        print_table(rows, module.protocol)
        print_matrices(module.test_matrices, names)
        Console().print(
            f"Per-task results and the edits: {path}\nCharts: tensorboard --logdir {path.parent.parent}", soft_wrap=True
        )
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_text("test/table", markdown(rows), 0)


def print_table(rows: Sequence[ConditionRow], protocol: Protocol) -> None:
    """Print the table with Rich."""
    console = Console()
    console = Console(width=max(console.width, _MIN_WIDTH))  # a log file would get 80 columns
    unit = "sequences" if protocol.merges else "tasks"
    table = Table(title=f"Held-out tasks, {protocol.name}: mean ± standard error over {unit}")
    headings, lines = cells(rows)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "condition" else "right", no_wrap=heading == "condition")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(
        "Vs equal steps: paired difference in log-prob from adaptation without an edit for as many steps as the last round's "
        "edits took, on the same policy; vs untrained: from the self-edit before training. Failed: malformed or diverged; "
        f"such a task has the scores {'that the model has without its step' if protocol.merges else 'without adaptation'}"
    )
    if any(row.retention for row in rows):
        console.print(
            "New learning: log-prob just after a task's own step less before any. Retained share: what is left of it after "
            "the last step, over tasks that were followed by others, with the jackknife's error; a dash where less than two "
            "standard errors were learned, or there was one sequence. Transfer: what other tasks' steps had added before its "
            "own; retained of own step: the share counted from there"
        )
    if any(row.num_merges for row in rows):
        console.print("Merges: what the gate let through in part, and what it refused; a refused step changes nothing")


def print_matrices(matrices: Mapping[str, Sequence[MatrixEstimate]], names: ConditionNames) -> None:
    """Print what is known of each task after each step, where there are several steps."""
    console = Console()
    console = Console(width=max(console.width, _MIN_WIDTH))
    for score, estimates in matrices.items():
        for matrix in estimates:
            if len(matrix.mean) <= 2 or not any(map(any, matrix.n)):
                continue
            console.print(f"\n{arm_label(names, matrix.arm)}: {score} of each task after each step")
            table = Table()
            for heading in ("after", *(f"task {place + 1}" for place in range(len(matrix.mean[0])))):
                table.add_column(heading, justify="right")
            for step, (means, errors) in enumerate(zip(matrix.mean, matrix.standard_error, strict=True)):
                cells = [_cell(mean, error) for mean, error in zip(means, errors, strict=True)]
                table.add_row(f"step {step}" if step else "before", *cells)
            console.print(table)


def _cell(mean: float | None, error: float | None) -> str:
    return "" if mean is None else f"{mean:.3f}" + ("" if error is None else f" ± {error:.3f}")


def markdown(rows: Sequence[ConditionRow]) -> str:
    """The table as Markdown."""
    headings, lines = cells(rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, ("---",) * len(headings), *lines])


def cells(rows: Sequence[ConditionRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The headings of the columns that have something, and each row's cells."""
    columns = {heading: [cell(row) for row in rows] for heading, cell in COLUMNS.items()}
    filled = {heading: column for heading, column in columns.items() if set(column) != {_NOTHING}}
    return tuple(filled), list(zip(*filled.values(), strict=True))


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
