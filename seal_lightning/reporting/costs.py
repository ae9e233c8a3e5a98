"""What a run cost: seconds, tokens, adapters, memory."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import RankPhase
from seal_lightning.distributed.timers import ACTIVITIES, straggler, time_shares
from seal_lightning.reporting.blocks import Block, Section, Table, capped, without_empty_columns
from seal_lightning.reporting.result_files import StoredResult
from seal_lightning.reporting.result_tables import protocol_name
from seal_lightning.reporting.runs import Round, StoredRun
from seal_lightning.reporting.text import label, shown_bytes, shown_seconds


def costs_section(runs: Sequence[StoredRun]) -> Section:
    """Of training, round by round, and of each test."""
    blocks: list[Block] = []
    rounds = [_round_row(run, place) for run in runs for place in range(len(run.rounds))]
    if rounds:
        blocks.append(
            Table(
                title="Attempts in training",
                headings=(
                    "run and round",
                    "attempts",
                    "adapters trained",
                    "optimiser steps",
                    "tokens trained",
                    "adapting",
                    "examining",
                    "tokens a second",
                ),
                rows=capped(rounds),
                note="Tokens: all epochs together. Seconds are summed over attempts; where adapters train side by side each "
                "carries its share. Writing the edits and the M-step are not in them.",
            )
        )
    phases = [_phase_row(run, found, ranks) for run in runs for found in run.rounds for ranks in found.phases]
    if phases:
        headings = ("phase", "ranks", "seconds", "attempts a minute", *(*ACTIVITIES, "other"), "slowest rank")
        shown_headings, shown_rows = without_empty_columns(headings, phases)
        note = (
            "Shares of all ranks' time; of a phase that was gone on with, since then. Slowest rank: by how much of the "
            "mean it was busy longer."
        )
        blocks.append(Table(title="Phases", headings=shown_headings, rows=capped(shown_rows), note=note))
    tests = [_test_row(run, test) for run in runs for test in run.tests]
    if tests:
        headings = ("test", "results", "adapting", "tokens trained", "whole test", "peak memory", "device")
        shown_headings, shown_rows = without_empty_columns(headings, tests)
        note = "Adapting: summed over results. Whole test and peak memory are known of newer results files only."
        blocks.append(Table(title="Tests", headings=shown_headings, rows=capped(shown_rows), note=note))
    return Section(title="Costs", blocks=tuple(blocks))


def _round_row(run: StoredRun, place: int) -> tuple[str, ...]:
    found = run.rounds[place]
    adapting = sum(t.adapt_seconds for t in found.attempts)
    tokens = sum(t.num_tokens for t in found.attempts)
    return (
        f"{run.name}, round {found.index}",
        f"{len(found.attempts):,}",
        f"{sum(t.was_trained for t in found.attempts):,}",
        f"{sum(t.num_steps for t in found.attempts):,}",
        f"{tokens:,}",
        shown_seconds(adapting),
        shown_seconds(sum(t.examine_seconds for t in found.attempts)),
        f"{tokens / adapting:,.0f}" if adapting > 0 else "–",
    )


def _phase_row(run: StoredRun, found: Round, ranks: Sequence[RankPhase]) -> tuple[str, ...]:
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


def _test_row(run: StoredRun, test: StoredResult) -> tuple[str, ...]:
    tokens = [result.num_tokens for result in test.results if result.num_tokens is not None]
    return (
        f"{run.name}, {test.path.name}: {protocol_name(test)}",
        f"{len(test.results):,}",
        shown_seconds(sum(result.adapt_seconds for result in test.results)),
        f"{sum(tokens):,.0f}" if tokens else "–",
        "–" if test.seconds is None else shown_seconds(test.seconds),
        "–" if not test.peak_memory_bytes else shown_bytes(test.peak_memory_bytes),
        label(test.device, 40) if test.device else "–",
    )
