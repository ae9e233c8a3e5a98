"""A report of runs: its sections, in the order a reader wants them."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.reporting.blocks import Report, Section
from seal_lightning.reporting.costs import costs_section
from seal_lightning.reporting.edits import held_out_edits_section, training_edits_section
from seal_lightning.reporting.forgetting import forgetting_section
from seal_lightning.reporting.published import published_section
from seal_lightning.reporting.result_tables import results_section
from seal_lightning.reporting.rewards import rewards_section
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.settings import are_seeds_of_one, settings_section


def make_report(runs: Sequence[StoredRun]) -> Report:
    """All there is to say of runs, side by side."""
    sections: list[Section | None] = [
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
    what = f"{attempts:,} attempts in {rounds} round{'s' * (rounds != 1)}, {tests} test{'s' * (tests != 1)}"
    if len(runs) == 1:
        return what
    same = "equal settings, a seed of its own each" if are_seeds_of_one(runs) else "different settings or equal seeds"
    return f"{what}; {same}: {', '.join(run.name for run in runs)}"
