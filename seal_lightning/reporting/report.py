"""A report of runs: its sections in order, and the section on costs."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import RankPhase
from seal_lightning.distributed.timers import ACTIVITIES, straggler, time_shares
from seal_lightning.reporting.document import Report, ReportSection, Table, capped, without_empty_columns
from seal_lightning.reporting.edits import held_out_edits_section, training_edits_section
from seal_lightning.reporting.forgetting import forgetting_section
from seal_lightning.reporting.published import published_section
from seal_lightning.reporting.result_tables import protocol_name, results_section
from seal_lightning.reporting.rewards import rewards_section
from seal_lightning.reporting.runs import StoredEvaluation, StoredRound, StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, settings_section
from seal_lightning.reporting.text import label, shown_seconds


def make_report(runs: Sequence[StoredRun]) -> Report:
    """Return the report of one run, or of several side by side."""
    sections = [
        settings_section(runs),
        results_section(runs),
        forgetting_section(runs),
        rewards_section(runs),
        training_edits_section(runs),
        held_out_edits_section(runs),
        costs_section(runs),
        published_section(runs),
    ]
    return Report(
        title="SEAL: " + (f"the run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"),
        subtitle=_subtitle(runs),
        sections=tuple(section for section in sections if section is not None and section.blocks),
    )


def _subtitle(runs: Sequence[StoredRun]) -> str:
    attempts = sum(len(found.attempts) for run in runs for found in run.rounds)
    rounds = sum(len(run.rounds) for run in runs)
    tests = sum(len(run.tests) for run in runs)
    contents = f"{attempts:,} attempts in {rounds} round{'s' * (rounds != 1)}, {tests} test{'s' * (tests != 1)}"
    if len(runs) == 1:
        return contents
    same = "equal settings, a seed of its own each" if are_seeds_of_one(runs) else "different settings or equal seeds"
    return f"{contents}; {same}: {', '.join(run.name for run in runs)}"


def costs_section(runs: Sequence[StoredRun]) -> ReportSection:
    """Return the section on seconds, tokens and memory: of attempts, of phases and of tests."""
    phases = [_phase_row(run, found, ranks) for run in runs for found in run.rounds for ranks in found.phases]
    tables = (
        _table(
            "Attempts in training",
            "run and round|attempts|adapters trained|optimiser steps|tokens trained|adapting|examining|tokens per second",
            [_round_row(run, found) for run in runs for found in run.rounds],
            "Tokens: all epochs together. Seconds are summed over attempts; adapters that train side by side share them. "
            "Writing the edits and the M-step are not included.",
        ),
        _table(
            "Phases",
            "|".join(("phase|ranks|seconds|attempts per minute", *ACTIVITIES, "other|slowest rank")),
            phases,
            "Shares of all ranks' time; of a resumed phase, since the resume. Slowest rank: how much longer than the mean it "
            "was busy.",
        ),
        _table(
            "Tests",
            "test|results|adapting|tokens trained|whole test|peak memory|device",
            [_test_row(run, test) for run in runs for test in run.tests],
            "Adapting: summed over results.",
        ),
    )
    return ReportSection(title="Costs", blocks=tuple(table for table in tables if table.rows))


def _table(title: str, headings: str, rows: Sequence[tuple[str, ...]], note: str) -> Table:
    names, cells = without_empty_columns(headings.split("|"), rows)
    return Table(title=title, headings=names, rows=capped(cells), note=note)


def _round_row(run: StoredRun, found: StoredRound) -> tuple[str, ...]:
    adapting = sum(row.adapt_seconds for row in found.attempts)
    tokens = sum(row.num_tokens for row in found.attempts)
    return (
        f"{run.name}, round {found.index}",
        f"{len(found.attempts):,}",
        f"{sum(row.num_steps > 0 for row in found.attempts):,}",
        f"{sum(row.num_steps for row in found.attempts):,}",
        f"{tokens:,}",
        shown_seconds(adapting),
        shown_seconds(sum(row.examine_seconds for row in found.attempts)),
        f"{tokens / adapting:,.0f}" if adapting > 0 else "–",
    )


def _phase_row(run: StoredRun, found: StoredRound, ranks: Sequence[RankPhase]) -> tuple[str, ...]:
    seconds, attempts = max(one.seconds for one in ranks), sum(one.num_attempts for one in ranks)
    shares = time_shares(ranks)
    return (
        f"{run.name}, round {found.index}, {'E-step' if ranks[0].phase == 'e_step' else 'M-step'}",
        f"{len(ranks):,}",
        f"{seconds:,.1f}",
        f"{60 * attempts / seconds:,.1f}" if attempts and seconds > 0 else "–",
        *(f"{shares[name]:.1%}" if name in shares else "–" for name in (*ACTIVITIES, "other")),
        f"+{straggler(ranks):.0%}" if len(ranks) > 1 else "–",
    )


def _test_row(run: StoredRun, test: StoredEvaluation) -> tuple[str, ...]:
    return (
        f"{run.name}, {test.path.name}: {protocol_name(test)}",
        f"{len(test.results):,}",
        shown_seconds(sum(result.adapt_seconds for result in test.results)),
        f"{sum(result.num_tokens for result in test.results):,.0f}",
        shown_seconds(test.seconds),
        f"{test.peak_memory_bytes / 2**30:.2f} GiB",
        label(test.device, 40),
    )
