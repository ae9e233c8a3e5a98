"""The training's rewards: curves over rounds, their spread, and how attempts ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from seal_lightning.core import AttemptStatus
from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.reporting.blocks import Block, Chart, Paragraph, Section, Table, capped, without_empty_columns
from seal_lightning.reporting.reward_charts import MAX_POINTS, MAX_ROUNDS, reward_curves, reward_spread
from seal_lightning.reporting.runs import Round, StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, reward_name
from seal_lightning.reporting.text import label

MAX_SPREADS = 8
"""Runs whose rewards are drawn one by one."""
_MAX_KINDS = 12
_UNITS = {
    "LikelihoodReward": "log-prob of gold, nats",
    "AccuracyReward": "share of answers right",
    "SolvedReward": "1 solved, 0 not",
}


def rewards_section(runs: Sequence[StoredRun]) -> Section:
    """Of every run that has attempts."""
    trained = [run for run in runs if run.rounds]
    blocks: list[Block] = [
        Paragraph(text=f"{run.name} has no stored attempts: only a test is reported of it.")
        for run in runs
        if not run.rounds
    ]
    if not trained:
        return Section(title="Rewards in training", blocks=tuple(blocks))
    unit = _unit(trained)
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
                numbers=_ends_table(run),
            )
        )
    if len(trained) > MAX_SPREADS:
        blocks.append(Paragraph(text=f"Single attempts are drawn for the first {MAX_SPREADS} of {len(trained)} runs."))
    return Section(title="Rewards in training", blocks=tuple(blocks))


def _unit(runs: Sequence[StoredRun]) -> str:
    names = {reward_name(run) for run in runs}
    name = names.pop() if len(names) == 1 else "of different kinds"
    return _UNITS.get(name, label(name, 40) or "unit not known")


def _curve_table(runs: Sequence[StoredRun]) -> Table:
    rows: list[tuple[str, ...]] = []
    for run in runs:
        for found in run.rounds:
            rows.append(
                (
                    f"{run.name}, round {found.index}",
                    str(len(found.attempts)),
                    shown_estimate(found.reward, 4),
                    str(len(found.kept)) if found.kept else "–",
                    shown_estimate(found.kept_reward, 4),
                    shown_estimate(found.over_tasks("before"), 4),
                    shown_estimate(found.over_tasks("after"), 4),
                )
            )
    if are_seeds_of_one(runs):
        rows += _pooled_rows(runs)
    headings = (
        "run and round",
        "attempts",
        "reward of all",
        "kept edits",
        "reward of kept",
        "score before",
        "score after",
    )
    shown_headings, shown_rows = without_empty_columns(headings, rows)
    note = "Mean ± standard error over tasks. Scores before and after adaptation: where the reward keeps both."
    return Table(title="Rewards by round", headings=shown_headings, rows=capped(shown_rows), note=note)


def _pooled_rows(runs: Sequence[StoredRun]) -> list[tuple[str, ...]]:
    """Over runs that differ in their seed only: each run's mean counts once."""
    rows: list[tuple[str, ...]] = []
    for index in sorted({found.index for run in runs for found in run.rounds}):
        rounds = [found for run in runs for found in run.rounds if found.index == index]
        if len(rounds) == len(runs):
            name = f"mean over {len(runs)} runs, round {index}"
            of_all, of_kept = _over_runs([r.reward for r in rounds]), _over_runs([r.kept_reward for r in rounds])
            before, after = (_over_runs([r.over_tasks(part) for r in rounds]) for part in ("before", "after"))
            rows.append((name, "", of_all, "", of_kept, before, after))
    return rows


def _over_runs(values: Sequence[Estimate | None]) -> str:
    known = [value.mean for value in values if value is not None]
    return shown_estimate(estimate(known) if len(known) == len(values) else None, 4)


def _spread_description(run: StoredRun) -> str:
    most = max(len(found.attempts) for found in run.rounds)
    cut = (
        f" Of more than {MAX_POINTS} rewards of a round, evenly spaced quantiles are drawn."
        if most > MAX_POINTS
        else ""
    )
    few = f" Of {len(run.rounds)} rounds, {MAX_ROUNDS} are drawn." if len(run.rounds) > MAX_ROUNDS else ""
    return f"Left: a point is an attempt. Right: how many were scored, and how many failed in which way.{cut}{few}"


def _ends_table(run: StoredRun) -> Table:
    rows = [_ends_row(found) for found in run.rounds]
    headings = ("round", *(status.value for status in AttemptStatus), "kinds of failure")
    return Table(title=f"How attempts ended ({run.name})", headings=headings, rows=capped(rows))


def _ends_row(found: Round) -> tuple[str, ...]:
    kinds = Counter(t.failure_kind for t in found.attempts if t.failure_kind is not None)
    failures = ", ".join(f"{count} × {label(kind, 60)}" for kind, count in kinds.most_common(_MAX_KINDS))
    more = f" and {len(kinds) - _MAX_KINDS} more kinds" if len(kinds) > _MAX_KINDS else ""
    counts = found.status_counts
    return str(found.index), *(str(counts[status]) for status in AttemptStatus), f"{failures}{more}" or "–"
