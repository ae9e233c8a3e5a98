"""What later steps do to what earlier ones taught: a protocol of several steps as matrices, and forgetting in numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from seal_lightning.core.estimates import Estimate, cluster_means, clustered, estimate, shown_estimate
from seal_lightning.core.forgetting_curve import ForgettingCurve, retention
from seal_lightning.reporting.blocks import Block, Chart, Paragraph, Section, Table, capped, without_empty_columns
from seal_lightning.reporting.matrix_charts import SCORES, heat_map
from seal_lightning.reporting.result_files import Matrix, StoredResult, TestResult
from seal_lightning.reporting.result_tables import comparable, protocol_name
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one
from seal_lightning.reporting.text import label

MAX_MAPS = 16
_CHANGES = (3, 4, 6)
"""Columns behind the names that are differences of scores."""
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

Arm = tuple[str, int, str]
"""Condition, round, name."""
Place = tuple[int, int]
"""Sequence and place in it."""


def forgetting_section(runs: Sequence[StoredRun]) -> Section | None:
    """Of every test of several steps; None where there is none."""
    tests = [(run, test) for run in runs for test in run.tests if test.protocol.num_steps > 1]
    if not tests:
        return None
    blocks: list[Block] = [Paragraph(text=_NOTE)]
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
        blocks.append(Paragraph(text=text))
    return Section(title="Learning one after the other: what is forgotten", blocks=tuple(blocks))


def _chart(matrix: Matrix, run: StoredRun, test: StoredResult) -> Chart:
    score = SCORES.get(matrix.score, label(matrix.score, 40))
    title = f"{label(matrix.label)}: {score} ({run.name}, {test.path.name})"
    return Chart(
        title=title,
        picture=heat_map(matrix),
        description="Scores by step and place in the sequence.",
        numbers=_matrix_table(matrix, title),
        is_small=True,
    )


def _matrix_table(matrix: Matrix, title: str) -> Table:
    digits = 3 if matrix.score == "accuracy" else 2
    rows = []
    for step, row in enumerate(matrix.mean):
        errors = matrix.standard_error[step] if step < len(matrix.standard_error) else ()
        estimates = [
            None if mean is None else Estimate(mean=mean, standard_error=errors[place] if place < len(errors) else None)
            for place, mean in enumerate(row[:_MAX_PLACES])
        ]
        rows.append(("before" if step == 0 else f"after step {step}", *(shown_estimate(e, digits) for e in estimates)))
    headings = ("", *(f"place {place + 1}" for place in range(len(matrix.mean[0][:_MAX_PLACES]))))
    return Table(title=title, headings=headings, rows=capped(rows, _MAX_STEPS), note="Mean ± standard error.")


def _table(name: str, tests: Sequence[tuple[StoredRun, StoredResult]], score: str, *, pooled: bool) -> Table:
    """Before, right after its own step, after the last one; paired place by place."""
    found: dict[Arm, list[tuple[str, list[Estimate | None]]]] = {}
    labels: dict[Arm, str] = {}
    for run, test in tests:
        labels |= {(row.condition, row.round, row.name or ""): label(row.label) for row in test.table}
        for arm, changes in _changes(test, score).items():
            found.setdefault(arm, []).append((f"{run.name}, {test.path.name}", changes))
    rows = []
    for arm, of_runs in found.items():
        if pooled and len(of_runs) == len(tests):
            of_runs.append((f"mean over {len(tests)} runs", _over_runs([changes for _, changes in of_runs])))
        digits = 3 if score == "accuracy" else 2
        for where, changes in of_runs:
            cells = [shown_estimate(value, digits, signed=i in _CHANGES) for i, value in enumerate(changes)]
            rows.append((labels.get(arm, label(" ".join(map(str, arm)))), where, *cells))
    headings = (
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
    filled, cells_of = without_empty_columns(headings, rows)
    return Table(title=f"{name}: {SCORES[score]}", headings=filled, rows=capped(cells_of), num_text_columns=2)


def _over_runs(of_runs: Sequence[Sequence[Estimate | None]]) -> list[Estimate | None]:
    """Column by column, the mean of the runs' means with its standard error over runs."""
    columns = [[e.mean for e in column if e is not None] for column in zip(*of_runs, strict=True)]
    return [estimate(found) if len(found) == len(of_runs) else None for found in columns]


def _changes(test: StoredResult, score: str) -> dict[Arm, list[Estimate | None]]:
    """By arm that adapts: the three means, the two paired changes, and what is retained."""
    by_arm: dict[Arm, list[TestResult]] = {}
    for result in test.results:
        by_arm.setdefault((result.condition, result.round, result.name or ""), []).append(result)
    changes = {}
    for arm, results in by_arm.items():
        unadapted = by_arm.get(("no_adaptation", arm[1], ""), []) if arm[0] != "no_adaptation" else []
        courses = _courses([*unadapted, *results], score)
        if any(course.followed for course in courses):
            changes[arm] = [*(clustered(pairs) for pairs in _scores_and_changes(courses)), *_retained(courses, score)]
    return changes


def _courses(results: Sequence[TestResult], score: str) -> list[ForgettingCurve]:
    """One for each place of each sequence. The step that was about it is the first after which it counts as learned."""
    cells = cluster_means(
        ((result.sequence, result.place, result.step), value)
        for result in results
        if (value := getattr(result.scores, score)) is not None
    )
    steps: dict[Place, list[int]] = {}
    for sequence, place, step in sorted(cells):
        steps.setdefault((sequence, place), []).append(step)
    taught = {(result.sequence, result.place): result.step for result in results if result.taught}
    task_ids = {(result.sequence, result.place): result.task_id for result in results}
    courses = []
    for (sequence, place), examined in steps.items():
        at = {step: cells[sequence, place, step] for step in examined}
        own = taught.get((sequence, place)) or next((step for step in examined if step > 0), None)
        if own in at and 0 in at:
            assert own is not None
            last = examined[-1]
            followed = last > own
            just_before = at.get(own - 1) if own > 1 else None
            courses.append(
                ForgettingCurve(
                    sequence=sequence,
                    task=task_ids[sequence, place],
                    is_first=own == 1,
                    before=at[0],
                    just_before=just_before,
                    own=at[own],
                    last=at[last],
                    followed=followed,
                )
            )
    return courses


def _scores_and_changes(courses: Sequence[ForgettingCurve]) -> Iterator[list[tuple[Hashable, float]]]:
    yield [(course.sequence, course.before) for course in courses]
    yield [(course.sequence, course.own) for course in courses]
    yield [(course.sequence, course.last) for course in courses]
    yield [(course.sequence, course.own - course.before) for course in courses]
    yield [(course.sequence, course.last - course.own) for course in courses if course.followed]


def _retained(courses: Sequence[ForgettingCurve], score: str) -> list[Estimate | None]:
    """Of log-probabilities; a share of an accuracy's gain says little where most answers are wrong."""
    found = retention(courses) if score == "log_prob" else None
    if found is None:
        return [None, None, None]
    return [found.retained_share, found.transfer, found.specific_share]
