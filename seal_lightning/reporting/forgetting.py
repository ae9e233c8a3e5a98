"""The report's section on forgetting: a protocol of several steps as matrices, and what is retained."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core.estimates import Estimate, clustered, estimate, shown_estimate
from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult, ScoreMatrix
from seal_lightning.core.forgetting_curve import ForgettingCurve, retention
from seal_lightning.reporting.charts import SCORES, heat_map
from seal_lightning.reporting.condition_table import forgetting_curves
from seal_lightning.reporting.document import (
    Block,
    Chart,
    ReportSection,
    Table,
    TextBlock,
    capped,
    without_empty_columns,
)
from seal_lightning.reporting.result_tables import comparable, protocol_name
from seal_lightning.reporting.runs import StoredEvaluation, StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one
from seal_lightning.reporting.text import label

MAX_MAPS = 16
_HEADINGS = (
    "condition",
    "test",
    "before",
    "after its own step",
    "after the last step",
    "gained",
    "kept or lost since",
    "retained share",
    "transfer",
    "retained of own step",
)
_CHANGES = (3, 4, 6)
"""Estimates that are differences of scores."""
_MAX_STEPS, _MAX_PLACES = 64, 24
"""Of a matrix written as a table."""
_NOTE = (
    "Tables: mean ± standard error over sequences. Gained: own step less before. Kept or lost since: last step less own "
    "step, over passages that were followed by others; below zero is forgetting. Retained share: of what those passages "
    "gained, what is left after the last step, with the jackknife's error; a dash where they gained less than two "
    "standard errors, or there was a single sequence. Transfer: what other passages' steps had added before the own "
    "step; retained of own step: the share counted from there. Pictures: row by row what is known after each step, "
    "column by column what became of a place's passage; the line separates the row before any step, hatched cells were "
    "not examined."
)


def forgetting_section(runs: Sequence[StoredRun]) -> ReportSection | None:
    """Return the section on tests of several steps; None where there is none."""
    tests = [(run, test) for run in runs for test in run.tests if test.protocol.num_steps > 1]
    if not tests:
        return None
    blocks: list[Block] = [TextBlock(text=_NOTE)]
    for key in dict.fromkeys(comparable(test) for _, test in tests):
        of_protocol = [(run, test) for run, test in tests if comparable(test) == key]
        name = protocol_name(of_protocol[0][1])
        once_each = len({run.path for run, _ in of_protocol}) == len(of_protocol) == len(runs)
        pooled = once_each and are_seeds_of_one(runs)
        blocks += [table for score in SCORES if (table := _table(name, of_protocol, score, pooled=pooled)).rows]
    maps = [(matrix, run, test) for run, test in tests for matrix in test.matrices if matrix.mean and matrix.mean[0]]
    blocks += [_chart(*one) for one in maps[:MAX_MAPS]]
    if len(maps) > MAX_MAPS:
        text = f"{MAX_MAPS} of {len(maps)} matrices are drawn; the others are in the results files."
        blocks.append(TextBlock(text=text))
    return ReportSection(title="Learning one after the other: what is forgotten", blocks=tuple(blocks))


def _chart(matrix: ScoreMatrix, run: StoredRun, test: StoredEvaluation) -> Chart:
    title = f"{label(matrix.label)}: {SCORES.get(matrix.score, label(matrix.score, 40))} ({run.name}, {test.path.name})"
    return Chart(
        title=title,
        picture=heat_map(matrix),
        description="Scores by step and place in the sequence.",
        numbers=_matrix_table(matrix, title),
        is_small=True,
    )


def _matrix_table(matrix: ScoreMatrix, title: str) -> Table:
    rows = []
    for step, (means, errors) in enumerate(zip(matrix.mean, matrix.standard_error, strict=True)):
        pairs = list(zip(means, errors, strict=True))[:_MAX_PLACES]
        cells = [None if mean is None else Estimate(mean=mean, standard_error=error) for mean, error in pairs]
        name = f"after step {step}" if step else "before"
        rows.append((name, *(shown_estimate(cell, _digits(matrix.score)) for cell in cells)))
    headings = ("", *(f"place {place + 1}" for place in range(len(matrix.mean[0][:_MAX_PLACES]))))
    return Table(title=title, headings=headings, rows=capped(rows, _MAX_STEPS), note="Mean ± standard error.")


def _digits(score: str) -> int:
    return 3 if score == "accuracy" else 2


def _table(name: str, tests: Sequence[tuple[StoredRun, StoredEvaluation]], score: str, *, pooled: bool) -> Table:
    """Return scores before, right after the own step and after the last one, with their paired differences."""
    found: dict[Arm, list[tuple[str, list[Estimate | None]]]] = {}
    labels: dict[Arm, str] = {}
    for run, test in tests:
        labels |= {row.arm: label(row.label) for row in test.table}
        for arm, changes in _changes(test, score).items():
            found.setdefault(arm, []).append((f"{run.name}, {test.path.name}", changes))
    rows = []
    for arm, of_runs in found.items():
        if pooled and len(of_runs) == len(tests):
            of_runs.append((f"mean over {len(tests)} runs", _over_runs([changes for _, changes in of_runs])))
        for where, changes in of_runs:
            cells = [shown_estimate(value, _digits(score), signed=i in _CHANGES) for i, value in enumerate(changes)]
            rows.append((labels[arm], where, *cells))
    headings, cells_of = without_empty_columns(_HEADINGS, rows)
    return Table(title=f"{name}: {SCORES[score]}", headings=headings, rows=capped(cells_of), text_columns=(0, 1))


def _over_runs(of_runs: Sequence[Sequence[Estimate | None]]) -> list[Estimate | None]:
    """Return for each column the mean of the runs' means with its standard error over runs."""
    columns = [[e.mean for e in column if e is not None] for column in zip(*of_runs, strict=True)]
    return [estimate(found) if len(found) == len(of_runs) else None for found in columns]


def _changes(test: StoredEvaluation, score: str) -> dict[Arm, list[Estimate | None]]:
    """Return for each arm that adapts the three means, the two paired changes, and what is retained."""
    by_arm: dict[Arm, list[ConditionResult]] = {}
    for result in test.results:
        by_arm.setdefault(result.arm, []).append(result)
    changes = {}
    for arm, results in by_arm.items():
        unadapted: list[ConditionResult] = []
        if arm.condition is not Condition.NO_ADAPTATION:
            unadapted = by_arm.get(Arm(condition=Condition.NO_ADAPTATION, round=arm.round), [])
        curves = forgetting_curves(results, unadapted, lambda scores: getattr(scores, score))
        if any(curve.followed for curve in curves):
            changes[arm] = _estimates(curves, score)
    return changes


def _estimates(curves: Sequence[ForgettingCurve], score: str) -> list[Estimate | None]:
    """Return the estimates of a row, in the order of :data:`_HEADINGS`."""
    found: list[Estimate | None] = [
        clustered((curve.sequence, curve.before) for curve in curves),
        clustered((curve.sequence, curve.own) for curve in curves),
        clustered((curve.sequence, curve.last) for curve in curves),
        clustered((curve.sequence, curve.own - curve.before) for curve in curves),
        clustered((curve.sequence, curve.last - curve.own) for curve in curves if curve.followed),
    ]
    # A share of an accuracy's gain says little where most answers are wrong.
    kept = retention(curves) if score == "log_prob" else None
    return [*found, *([kept.retained_share, kept.transfer, kept.specific_share] if kept else [None] * 3)]
