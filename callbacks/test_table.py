"""The test's table: in the terminal, as JSON, and in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from seal_lightning.evaluation import ConditionResult, ConditionRow, condition_table
from seal_lightning.evaluation.table import Estimate
from seal_lightning.hooks import SealCallback
from seal_lightning.module import SealModule
from seal_lightning.records import to_plain
from seal_lightning.rundir import RunDir

_MIN_WIDTH = 180
_NOTHING = "–"

Cell = Callable[[ConditionRow], str]
COLUMNS: dict[str, Cell] = {
    "condition": lambda row: row.label,
    "n": lambda row: f"{row.num_tasks} ({row.num_questions} q)",
    "log-prob": lambda row: _shown(row.log_prob, 2),
    "accuracy": lambda row: _shown(row.accuracy, 3),
    "F1": lambda row: _shown(row.f1, 3),
    "solved": lambda row: _shown(row.solved if row.partial_credit else None, 3),
    "cells right": lambda row: _shown(row.partial_credit, 3),
    "steps": lambda row: f"{row.num_steps.mean:.1f}",
    "vs equal steps": lambda row: _shown(row.log_prob_vs_matched, 2, signed=True),
    "vs untrained": lambda row: _shown(row.log_prob_vs_untrained, 2, signed=True),
    "failed": lambda row: str(row.num_failed),
    "invalid": lambda row: (
        f"{row.num_invalid} of {row.num_views}" if row.partial_credit or row.num_invalid else _NOTHING
    ),
}
"""By heading; a column with nothing in any row is left out."""


class TestTable(SealCallback):
    """Shows and keeps the results of ``seal test`` in ``results/test.json``."""

    __test__ = False  # pytest: not a test case

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Write and print on the first rank."""
        rows = condition_table(results, cast(SealModule, pl_module).domain.condition_names)
        if not trainer.is_global_zero or not rows:
            return
        content = {"table": [asdict(row) for row in rows], "results": to_plain(results, ConditionResult)}
        path = RunDir.of(trainer).write_result("test", content)
        print_table(rows)
        Console().print(
            f"Per-task results and the edits: {path}\nCharts: tensorboard --logdir {path.parent.parent}", soft_wrap=True
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics(_scalars(rows), step=0)
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_text("test/table", markdown(rows), 0)


def print_table(rows: Sequence[ConditionRow]) -> None:
    """Print the table with Rich."""
    console = Console()
    console = Console(width=max(console.width, _MIN_WIDTH))  # a log file would get 80 columns
    table = Table(title="Held-out tasks: mean ± standard error over tasks")
    headings, lines = cells(rows)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "condition" else "right", no_wrap=heading == "condition")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(
        "vs equal steps: paired difference in log-prob from adaptation without an edit at as many steps, same policy · vs "
        "untrained: from the self-edit before training · failed: malformed or diverged, scored without adaptation"
    )


def markdown(rows: Sequence[ConditionRow]) -> str:
    """The table as Markdown."""
    headings, lines = cells(rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, ("---",) * len(headings), *lines])


def cells(rows: Sequence[ConditionRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The headings of the columns that have something, and each row's cells."""
    columns = {heading: [cell(row) for row in rows] for heading, cell in COLUMNS.items()}
    filled = {heading: column for heading, column in columns.items() if set(column) != {_NOTHING}}
    return tuple(filled), list(zip(*filled.values(), strict=True))


def _shown(value: Estimate | None, digits: int, *, signed: bool = False) -> str:
    if value is None:
        return _NOTHING
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}f}"
    return f"{value.mean:{'+' if signed else ''}.{digits}f}{error}"


def _scalars(rows: Sequence[ConditionRow]) -> dict[str, Any]:
    return {
        f"test/{row.condition.value}_round{row.round}/{name}": value.mean
        for row in rows
        for name in ("log_prob", "accuracy", "f1", "solved", "partial_credit")
        if (value := getattr(row, name)) is not None
    }
