"""What later steps do to what earlier ones taught: a protocol of several steps as matrices, and forgetting in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seal_lightning.estimates import Estimate, cluster_means, clustered, estimate, shown_estimate
from seal_lightning.reporting.blocks import Block, Chart, Paragraph, Section, Table, capped
from seal_lightning.reporting.matrix_charts import SCORES, heat_map
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one
from seal_lightning.reporting.test_files import Matrix, StoredTest, TestResult
from seal_lightning.reporting.test_tables import comparable, protocol_name
from seal_lightning.reporting.text import label

MAX_MAPS = 16
_MAX_STEPS, _MAX_PLACES = 64, 24
"""Of a matrix written as a table."""
_NOTE = (
    "Tables: mean ± standard error over sequences. Gained: own step less before. Kept or lost since: last step less own "
    "step, over passages that were followed by others; below zero is forgetting. Pictures: row by row what is known after "
    "each step, column by column what became of a place's passage; the line separates the row before any step, hatched cells "
    "were not examined."
)

Arm = tuple[str, int, str]
"""Condition, round, name."""
Place = tuple[int, int]
"""Sequence and place in it."""
Course = tuple[list[int], list[float]]
"""The steps after which a place was examined, in order, and its scores then."""


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


def _chart(matrix: Matrix, run: StoredRun, test: StoredTest) -> Chart:
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


def _table(name: str, tests: Sequence[tuple[StoredRun, StoredTest]], score: str, *, pooled: bool) -> Table:
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
            cells = [shown_estimate(value, digits, signed=i > 2) for i, value in enumerate(changes)]
            rows.append((labels.get(arm, label(" ".join(map(str, arm)))), where, *cells))
    headings = (
        "condition",
        "test",
        "before",
        "after its own step",
        "after the last step",
        "gained",
        "kept or lost since",
    )
    return Table(title=f"{name}: {SCORES[score]}", headings=headings, rows=capped(rows), num_text_columns=2)


def _over_runs(of_runs: Sequence[Sequence[Estimate | None]]) -> list[Estimate | None]:
    """Column by column, the mean of the runs' means with its standard error over runs."""
    return [estimate([e.mean for e in column if e is not None]) for column in zip(*of_runs, strict=True)]


def _changes(test: StoredTest, score: str) -> dict[Arm, list[Estimate | None]]:
    """By arm that adapts: the three means and the two paired changes."""
    by_arm: dict[Arm, list[TestResult]] = {}
    for result in test.results:
        by_arm.setdefault((result.condition, result.round, result.name or ""), []).append(result)
    changes = {}
    for arm, results in by_arm.items():
        unadapted = by_arm.get(("no_adaptation", arm[1], ""), []) if arm[0] != "no_adaptation" else []
        courses = _courses([*unadapted, *results], score)
        if any(steps[-1] > steps[0] for steps, _ in courses.values()):
            changes[arm] = [clustered(pairs) for pairs in _scores_and_changes(courses)]
    return changes


def _courses(results: Sequence[TestResult], score: str) -> dict[Place, Course]:
    cells = cluster_means(
        ((result.sequence, result.place, result.step), value)
        for result in sorted(results, key=lambda result: result.step)
        if (value := getattr(result.scores, score)) is not None
    )
    courses: dict[Place, Course] = {}
    for (sequence, place, step), value in cells.items():
        steps, values = courses.setdefault((sequence, place), ([], []))
        steps.append(step)
        values.append(value)
    return courses


def _scores_and_changes(courses: dict[Place, Course]) -> Iterator[list[tuple[int, float]]]:
    """By sequence. The first step after which a place is examined is the one that was about it."""
    before = {place: values[0] for place, (steps, values) in courses.items() if steps[0] == 0}
    learned = {
        place: later
        for place, (steps, values) in courses.items()
        if (later := [value for step, value in zip(steps, values, strict=True) if step > 0])
    }
    yield [(place[0], value) for place, value in before.items()]
    yield [(place[0], values[0]) for place, values in learned.items()]
    yield [(place[0], values[-1]) for place, values in learned.items()]
    yield [(place[0], values[0] - before[place]) for place, values in learned.items() if place in before]
    yield [(place[0], values[-1] - values[0]) for place, values in learned.items() if len(values) > 1]
