"""The report's section on tests: each test's table, and those of several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.core.evaluation_records import Arm, ConditionRow
from seal_lightning.reporting.document import Block, ReportSection, Table, TextBlock, capped, without_empty_columns
from seal_lightning.reporting.runs import StoredEvaluation, StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, brief
from seal_lightning.reporting.text import label

NOTE = (
    "Mean ± standard error over tasks (over sequences, for a protocol of several steps). Log-prob: mean log-probability "
    "(nats) of the gold answers' tokens. vs equal steps: paired difference in log-prob from adaptation without an edit for "
    "as many optimiser steps on the same policy. vs untrained: from the self-edit that the policy wrote before training. "
    "Failed: malformed or diverged, counted with the scores without adaptation (without the failed step, where steps are "
    "merged). Unscored answers count in no mean. Merges: how many a gate scaled and refused; a refused step changes nothing."
)
_SCORES: dict[str, tuple[Callable[[ConditionRow], Estimate | None], int]] = {
    "log-prob (nats)": (lambda row: row.log_prob, 2),
    "accuracy": (lambda row: row.accuracy, 3),
    "F1": (lambda row: row.f1, 3),
    "solved": (lambda row: row.solved if row.partial_credit else None, 3),
    "cells right": (lambda row: row.partial_credit, 3),
}
_INNER_LOOPS = {"BatchedInnerLoop": "LoRA", "FullFinetuning": "full finetuning"}


def _score_cell(of: Callable[[ConditionRow], Estimate | None], digits: int) -> Callable[[ConditionRow], str]:
    return lambda row: shown_estimate(of(row), digits)


def _retention_cell(name: str, *, signed: bool = False) -> Callable[[ConditionRow], str]:
    return lambda row: shown_estimate(getattr(row.retention, name, None), 2, signed=signed)


COLUMNS: dict[str, Callable[[ConditionRow], str]] = {
    "condition": lambda row: label(row.label),
    "tasks (questions)": lambda row: f"{row.num_tasks} ({row.num_questions})",
    **{heading: _score_cell(*score) for heading, score in _SCORES.items()},
    "log-prob after own step": lambda row: shown_estimate(row.log_prob_after_own_step, 2),
    "accuracy after own step": lambda row: shown_estimate(row.accuracy_after_own_step, 3),
    "new learning": _retention_cell("new_learning", signed=True),
    "retained share": _retention_cell("retained_share"),
    "transfer": _retention_cell("transfer", signed=True),
    "retained of own step": _retention_cell("specific_share"),
    "steps": lambda row: f"{row.num_steps.mean:.1f}",
    "vs equal steps": lambda row: shown_estimate(row.log_prob_vs_matched, 2, signed=True),
    "vs untrained": lambda row: shown_estimate(row.log_prob_vs_untrained, 2, signed=True),
    "failed": lambda row: str(row.num_failed),
    "unscored": lambda row: str(row.num_unscored) if row.num_unscored else "–",
    "merges": lambda row: (
        f"{row.num_scaled} scaled, {row.num_refused} refused of {row.num_merges}" if row.num_merges else "–"
    ),
    "invalid": lambda row: f"{row.num_invalid} of {row.num_views}" if row.partial_credit or row.num_invalid else "–",
}
"""Cells by heading, with a dash where nothing was measured."""


def rows_table(rows: Sequence[ConditionRow], title: str, note: str = "", *, folded: bool = False) -> Table:
    """Return the table of a test, without columns that are empty in every row."""
    cells = [tuple(cell(row) for cell in COLUMNS.values()) for row in rows]
    headings, shown_cells = without_empty_columns(tuple(COLUMNS), cells)
    return Table(title=title, headings=headings, rows=capped(shown_cells), note=note, folded=folded)


def results_section(runs: Sequence[StoredRun]) -> ReportSection:
    """Return the section on every test of every run."""
    blocks: list[Block] = []
    for run in runs:
        if not run.tests:
            text = f"{run.name} has no results of a test on held-out tasks; `seal test --run RUN` makes them."
            blocks.append(TextBlock(text=text))
        if run.num_older_tests:
            blocks.append(TextBlock(text=f"The {run.num_older_tests} oldest results files of {run.name} are skipped."))
    if len(runs) > 1:
        for name, tests in _by_protocol(runs):
            blocks += _side_by_side(runs, name, tests)
    for run in runs:
        for test in run.tests:
            title = f"{protocol_name(test)} ({run.name}, {test.path.name})"
            blocks.append(rows_table(test.table, title, _circumstances(test), folded=len(runs) > 1))
    if any(run.tests for run in runs):
        blocks.append(TextBlock(text=NOTE))
    return ReportSection(title="Held-out tasks", blocks=tuple(blocks))


def protocol_name(test: StoredEvaluation) -> str:
    """Return the protocol's name with steps, inner loop, measures against forgetting and student, where there are any."""
    protocol = test.protocol
    several = protocol.num_steps > 1
    how = _INNER_LOOPS.get(test.inner_loop, label(test.inner_loop))
    measures = [m["class"] for m in protocol.settings.get("against_forgetting") or ()]
    parts = [
        label(protocol.name),
        *([f"{protocol.num_steps} steps", f"{protocol.num_sequences} sequences"] if several else []),
        *([how] if how else []),
        *([f"with {label(' + '.join(measures))}"] if measures else []),
        *([f"student {label(test.model.student)}"] if test.model.student else []),
    ]
    return ", ".join(parts)


def comparable(test: StoredEvaluation) -> str:
    """Return a key that is equal for tests of the same questions in the same way, whatever the seed."""
    questions = sorted({(r.task_id, q.question_id) for r in test.results for q in r.scores.questions})
    key = [protocol_name(test), test.protocol.settings, test.inner_loop, test.edits_per_task, questions]
    return json.dumps(key, sort_keys=True)


def _by_protocol(runs: Sequence[StoredRun]) -> list[tuple[str, list[StoredEvaluation | None]]]:
    """Return the protocols that two runs or more were tested with, and each run's newest test of it, or None."""
    found: dict[str, list[StoredEvaluation | None]] = {}
    names: dict[str, str] = {}
    for i, run in enumerate(runs):
        for test in run.tests:
            key = comparable(test)
            found.setdefault(key, [None] * len(runs))[i] = test
            names[key] = protocol_name(test)
    return [(names[key], tests) for key, tests in found.items() if sum(test is not None for test in tests) > 1]


def _side_by_side(runs: Sequence[StoredRun], name: str, tests: Sequence[StoredEvaluation | None]) -> list[Block]:
    by_run: list[dict[Arm, ConditionRow]] = [{row.arm: row for row in test.table} if test else {} for test in tests]
    labels = {row.arm: label(row.label) for test in tests if test for row in test.table}
    pooled = are_seeds_of_one(runs) and all(by_run)
    blocks: list[Block] = []
    for heading, (score, digits) in _SCORES.items():
        rows = []
        for arm, text in labels.items():
            found = [score(rows_of[arm]) if arm in rows_of else None for rows_of in by_run]
            over_runs = estimate([value.mean for value in found if value is not None])
            pooled_value = over_runs if over_runs is not None and over_runs.n == len(runs) else None
            values = [*found, *([pooled_value] if pooled else [])]
            rows.append((text, *(shown_estimate(value, digits) for value in values)))
        if any(cell != "–" for row in rows for cell in row[1:]):
            headings = ("condition", *(run.name for run in runs), *(["mean over runs"] if pooled else []))
            title = f"{name}: {heading} of the runs side by side"
            blocks.append(Table(title=title, headings=headings, rows=capped(rows)))
    if blocks:
        text = (
            "Mean over runs: the mean of the runs' means ± its standard error over runs."
            if pooled
            else "No mean over runs is shown: that needs runs whose settings are equal but for the seed, each tested on the "
            "same questions in the same way."
        )
        blocks.append(TextBlock(text=text))
    return blocks


def _circumstances(test: StoredEvaluation) -> str:
    """Return how the tasks were learned, as a note."""
    parts = {"inner loop": test.inner_loop, "edits per task": test.edits_per_task, **test.protocol.settings}
    said = "; ".join(
        f"{label(name).replace('_', ' ')}: {brief(value)}" for name, value in parts.items() if value is not None
    )
    return label(f"{said[:1].upper()}{said[1:]}.", 1000)
