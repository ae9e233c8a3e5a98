"""The report's section on rewards in training: by round, their spread, and how attempts ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from seal_lightning.core import AttemptStatus
from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.reporting.charts import MAX_POINTS, MAX_ROUNDS, reward_curves, reward_spread
from seal_lightning.reporting.document import (
    Block,
    Chart,
    ReportSection,
    Table,
    TextBlock,
    capped,
    without_empty_columns,
)
from seal_lightning.reporting.runs import StoredRound, StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, class_name
from seal_lightning.reporting.text import label

MAX_SPREADS = 8
"""Runs whose single rewards are drawn."""
_MAX_KINDS = 12
_UNITS = {
    "LikelihoodReward": "log-prob of gold, nats",
    "AccuracyReward": "share of answers right",
    "SolvedReward": "1 solved, 0 not",
}
_SCORES = ("reward", "score_before", "score_after")


def rewards_section(runs: Sequence[StoredRun]) -> ReportSection:
    """Return the section on the runs that have attempts."""
    trained = [run for run in runs if run.rounds]
    blocks: list[Block] = [
        TextBlock(text=f"{run.name} has no stored attempts: only a test is reported of it.")
        for run in runs
        if not run.rounds
    ]
    if not trained:
        return ReportSection(title="Rewards in training", blocks=tuple(blocks))
    names = {class_name(run, "model.reward") for run in trained}
    name = names.pop() if len(names) == 1 else "of different kinds"
    unit = _UNITS.get(name, label(name, 40) or "unknown unit")
    blocks.append(
        Chart(
            title="Mean reward by round",
            picture=reward_curves(trained, unit),
            description="Mean reward by round, of all attempts and of the kept edits, with standard errors over tasks. "
            "Kept edits were chosen by this very reward, so their mean lies above that of all by choice, not by training.",
            numbers=_curve_table(trained),
        )
    )
    for run in trained[:MAX_SPREADS]:
        blocks.append(
            Chart(
                title=f"Rewards of single attempts and how attempts ended ({run.name})",
                picture=reward_spread(run, unit),
                description=_spread_description(run),
                numbers=_status_table(run),
            )
        )
    if len(trained) > MAX_SPREADS:
        blocks.append(TextBlock(text=f"Single attempts are drawn for the first {MAX_SPREADS} of {len(trained)} runs."))
    return ReportSection(title="Rewards in training", blocks=tuple(blocks))


def _curve_table(runs: Sequence[StoredRun]) -> Table:
    rows: list[tuple[str, ...]] = []
    for run in runs:
        for found in run.rounds:
            of_all, before, after = (shown_estimate(found.over_tasks(column), 4) for column in _SCORES)
            kept = (str(len(found.kept)) if found.kept else "–", shown_estimate(found.kept_reward, 4))
            rows.append((f"{run.name}, round {found.index}", str(len(found.attempts)), of_all, *kept, before, after))
    if are_seeds_of_one(runs):
        rows += _pooled_rows(runs)
    names = (
        "run and round",
        "attempts",
        "reward of all",
        "kept edits",
        "reward of kept",
        "score before",
        "score after",
    )
    headings, cells = without_empty_columns(names, rows)
    note = "Mean ± standard error over tasks. Scores before and after adaptation: where the reward keeps both."
    return Table(title="Rewards by round", headings=headings, rows=capped(cells), note=note)


def _pooled_rows(runs: Sequence[StoredRun]) -> list[tuple[str, ...]]:
    """Return a row for each round that all runs have; each run's mean counts once."""
    rows: list[tuple[str, ...]] = []
    for index in sorted({found.index for run in runs for found in run.rounds}):
        rounds = [found for run in runs for found in run.rounds if found.index == index]
        if len(rounds) == len(runs):
            name = f"mean over {len(runs)} runs, round {index}"
            of_all, before, after = (_over_runs([r.over_tasks(column) for r in rounds]) for column in _SCORES)
            rows.append((name, "", of_all, "", _over_runs([r.kept_reward for r in rounds]), before, after))
    return rows


def _over_runs(values: Sequence[Estimate | None]) -> str:
    known = [value.mean for value in values if value is not None]
    return shown_estimate(estimate(known) if len(known) == len(values) else None, 4)


def _spread_description(run: StoredRun) -> str:
    is_cut = max(len(found.attempts) for found in run.rounds) > MAX_POINTS
    cut = f" Of more than {MAX_POINTS} rewards of a round, evenly spaced quantiles are drawn." if is_cut else ""
    few = f" Of {len(run.rounds)} rounds, {MAX_ROUNDS} are drawn." if len(run.rounds) > MAX_ROUNDS else ""
    return f"Left: a point is an attempt. Right: how many were scored, and how many failed in which way.{cut}{few}"


def _status_table(run: StoredRun) -> Table:
    headings = ("round", *(status.value for status in AttemptStatus), "kinds of failure")
    rows = capped([_status_row(found) for found in run.rounds])
    return Table(title=f"How attempts ended ({run.name})", headings=headings, rows=rows)


def _status_row(found: StoredRound) -> tuple[str, ...]:
    kinds = Counter(row.failure_kind for row in found.attempts if row.failure_kind is not None)
    failures = ", ".join(f"{count} × {label(kind, 60)}" for kind, count in kinds.most_common(_MAX_KINDS))
    more = f" and {len(kinds) - _MAX_KINDS} more kinds" if len(kinds) > _MAX_KINDS else ""
    counts = found.status_counts
    return str(found.index), *(str(counts[status]) for status in AttemptStatus), f"{failures}{more}" or "–"
