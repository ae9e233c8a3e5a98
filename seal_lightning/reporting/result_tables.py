"""The tables of ``seal test``: each whole, and those of several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.reporting.blocks import Block, Paragraph, Section, Table, capped, without_empty_columns
from seal_lightning.reporting.result_files import Protocol, StoredResult, TestRow
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, brief
from seal_lightning.reporting.text import label

_NOTE = (
    "Mean ± standard error over tasks (over sequences, for a protocol of several steps). Log-prob: mean log-probability "
    "(nats) of the gold answers' tokens. vs equal steps: paired difference in log-prob from adaptation without an edit for "
    "as many optimiser steps on the same policy. vs untrained: from the self-edit that the policy wrote before training. "
    "Failed: malformed or diverged, counted with the scores without adaptation. Unscored answers are in no mean. Merges: "
    "what a gate let through in part, and what it refused."
)
_SCORES: dict[str, tuple[str, Callable[[TestRow], Estimate | None], int]] = {
    "log_prob": ("log-prob (nats)", lambda row: row.log_prob, 2),
    "accuracy": ("accuracy", lambda row: row.accuracy, 3),
    "f1": ("F1", lambda row: row.f1, 3),
    "solved": ("solved", lambda row: row.solved if row.partial_credit else None, 3),
    "partial_credit": ("cells right", lambda row: row.partial_credit, 3),
}


def _score_cell(of: Callable[[TestRow], Estimate | None], digits: int) -> Callable[[TestRow], str]:
    return lambda row: shown_estimate(of(row), digits)


_COLUMNS: dict[str, Callable[[TestRow], str]] = {
    "condition": lambda row: label(row.label),
    "tasks (questions)": lambda row: f"{row.num_tasks} ({row.num_questions})",
    **{heading: _score_cell(of, digits) for heading, of, digits in _SCORES.values()},
    "steps": lambda row: "–" if row.num_steps is None else f"{row.num_steps.mean:.1f}",
    "vs equal steps": lambda row: shown_estimate(row.log_prob_vs_matched, 2, signed=True),
    "vs untrained": lambda row: shown_estimate(row.log_prob_vs_untrained, 2, signed=True),
    "failed": lambda row: str(row.num_failed),
    "merges": lambda row: (
        f"{row.num_scaled} scaled, {row.num_refused} refused of {row.num_merges}" if row.num_merges else "–"
    ),
    "unscored": lambda row: str(row.num_unscored) if row.num_unscored else "–",
}

RowKey = tuple[str, int, str]


def results_section(runs: Sequence[StoredRun]) -> Section:
    """Every test of every run."""
    blocks: list[Block] = []
    for run in runs:
        if not run.tests:
            text = f"{run.name} has no results of a test on held-out tasks; `seal test --run RUN` makes them."
            blocks.append(Paragraph(text=text))
        if run.num_older_tests:
            text = f"The {run.num_older_tests} oldest results files of {run.name} are left out."
            blocks.append(Paragraph(text=text))
    if len(runs) > 1:
        for name, tests in _by_protocol(runs):
            blocks += _side_by_side(runs, name, tests)
    blocks += [_whole_table(run, test, folded=len(runs) > 1) for run in runs for test in run.tests]
    if any(run.tests for run in runs):
        blocks.append(Paragraph(text=_NOTE))
    return Section(title="Held-out tasks", blocks=tuple(blocks))


def protocol_name(test: StoredResult) -> str:
    """The protocol's name and, where there are several steps, how many; the student, where another model learns."""
    protocol = test.protocol
    steps = f", {protocol.num_steps} steps" if protocol.num_steps > 1 else ""
    sequences = f", {protocol.num_sequences} sequences" if protocol.num_steps > 1 else ""
    student = f", student {label(test.model.student)}" if test.model.student else ""
    how = _HOW.get(test.inner_loop or "", label(test.inner_loop or ""))
    against = _against_forgetting(protocol)
    return f"{label(protocol.name)}{steps}{sequences}{f', {how}' if how else ''}{against}{student}"


def _against_forgetting(protocol: Protocol) -> str:
    """The measures against forgetting by name; their settings are in the note of the test's table."""
    measures = protocol.settings.get("against_forgetting")
    found = [m["class"] for m in measures if isinstance(m, dict) and "class" in m] if isinstance(measures, list) else []
    return f", with {label(' + '.join(map(str, found)))}" if found else ""


_HOW = {"BatchedInnerLoop": "LoRA", "FullFinetuning": "full finetuning"}


def comparable(test: StoredResult) -> str:
    """Equal for tests that asked the same questions in the same way, whatever the seed."""
    questions = sorted({(r.task_id, q.question_id) for r in test.results for q in r.scores.questions})
    what = [protocol_name(test), test.protocol.settings, test.inner_loop, test.edits_per_task, questions]
    return json.dumps(what, sort_keys=True)


def row_key(row: TestRow) -> RowKey:
    """What a row is of, the same in every run."""
    return row.condition, row.round, row.name or ""


def _by_protocol(runs: Sequence[StoredRun]) -> list[tuple[str, list[StoredResult | None]]]:
    """Protocols that two runs or more were tested with: each run's newest test of it, or None."""
    found: dict[str, list[StoredResult | None]] = {}
    names: dict[str, str] = {}
    for place, run in enumerate(runs):
        for test in run.tests:
            key = comparable(test)
            found.setdefault(key, [None] * len(runs))[place] = test
            names[key] = protocol_name(test)
    return [(names[key], tests) for key, tests in found.items() if sum(test is not None for test in tests) > 1]


def _side_by_side(runs: Sequence[StoredRun], name: str, tests: Sequence[StoredResult | None]) -> list[Block]:
    by_run = [{row_key(row): row for row in test.table} if test is not None else {} for test in tests]
    labels = {row_key(row): label(row.label) for test in tests if test is not None for row in test.table}
    pooled = are_seeds_of_one(runs) and all(by_run)
    blocks: list[Block] = []
    for heading, score, digits in _SCORES.values():
        rows = []
        for key, text in labels.items():
            found = [score(rows_of[key]) if key in rows_of else None for rows_of in by_run]
            cells = [shown_estimate(value, digits) for value in found]
            over_runs = estimate([value.mean for value in found if value is not None])
            all_have_it = over_runs is not None and over_runs.n == len(runs)
            rows.append(
                (text, *cells, *([shown_estimate(over_runs if all_have_it else None, digits)] if pooled else []))
            )
        if any(cell != "–" for row in rows for cell in row[1:]):
            headings = ("condition", *(run.name for run in runs), *(["mean over runs"] if pooled else []))
            title = f"{name}: {heading} of the runs side by side"
            blocks.append(Table(title=title, headings=headings, rows=capped(rows)))
    if blocks and pooled:
        text = "Mean over runs: the mean of the runs' means ± its standard error over runs."
        blocks.append(Paragraph(text=text))
    elif blocks:
        text = (
            "No mean over runs is shown: that needs runs whose settings are equal but for the seed, each tested on the same "
            "questions in the same way."
        )
        blocks.append(Paragraph(text=text))
    return blocks


def _whole_table(run: StoredRun, test: StoredResult, *, folded: bool) -> Table:
    rows = [tuple(cell(row) for cell in _COLUMNS.values()) for row in test.table]
    headings, rows_shown = without_empty_columns(tuple(_COLUMNS), rows)
    title = f"{protocol_name(test)} ({run.name}, {test.path.name})"
    return Table(title=title, headings=headings, rows=capped(rows_shown), note=_circumstances(test), folded=folded)


def _circumstances(test: StoredResult) -> str:
    """How the tasks were learned, as far as the file says."""
    parts = {"inner loop": test.inner_loop, "edits a task": test.edits_per_task, **test.protocol.settings}
    said = "; ".join(
        f"{label(name).replace('_', ' ')}: {brief(value)}" for name, value in parts.items() if value is not None
    )
    return label(f"{said[:1].upper()}{said[1:]}.", 1000) if said else ""
