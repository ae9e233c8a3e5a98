"""The test's table: in the terminal, as JSON, and in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from seal_lightning.evaluation import ConditionResult, ConditionRow, condition_table
from seal_lightning.evaluation.table import Estimate
from seal_lightning.hooks import SealCallback
from seal_lightning.records import to_plain
from seal_lightning.rundir import RunDir

_MIN_WIDTH = 150
HEADINGS = ("condition", "n", "log-prob", "accuracy", "F1", "steps", "vs equal steps", "vs untrained", "failed")


class TestTable(SealCallback):
    """Shows and keeps the results of ``seal test`` in ``results/test.json``."""

    __test__ = False  # pytest: not a test case

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Write and print on the first rank."""
        rows = condition_table(results)
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
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "condition" else "right")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        "vs equal steps: paired difference in log-prob from the passage alone at as many steps, same policy · vs untrained: "
        "from the self-edit before training · failed: malformed or diverged, scored without adaptation"
    )


def markdown(rows: Sequence[ConditionRow]) -> str:
    """The table as Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: ConditionRow) -> tuple[str, ...]:
    return (
        row.label,
        f"{row.num_tasks} ({row.num_questions} q)",
        _shown(row.log_prob, 2),
        _shown(row.accuracy, 3),
        _shown(row.f1, 3),
        f"{row.num_steps.mean:.1f}",
        _shown(row.log_prob_vs_matched, 2, signed=True),
        _shown(row.log_prob_vs_untrained, 2, signed=True),
        str(row.num_failed),
    )


def _shown(value: Estimate | None, digits: int, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}f}"
    return f"{value.mean:{'+' if signed else ''}.{digits}f}{error}"


def _scalars(rows: Sequence[ConditionRow]) -> dict[str, Any]:
    return {
        f"test/{row.condition.value}_round{row.round}/{name}": value.mean
        for row in rows
        for name in ("log_prob", "accuracy", "f1")
        if (value := getattr(row, name)) is not None
    }
