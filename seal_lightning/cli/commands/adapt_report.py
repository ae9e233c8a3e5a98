"""Output of ``seal adapt``: what was read, the estimate and the result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from seal_lightning.adapt.estimate import Phase, Rates
from seal_lightning.adapt.material import Material
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.commands.adapters import exam_table, exam_title, print_lines, print_table

_MAX_SKIPPED = 5


def show_material(material: Material) -> None:
    """Print what was read and what was skipped."""
    num_questions = sum(len(passage.questions) for passage in material.passages)
    given = f", {num_questions} questions given" if material.has_questions else ""
    print_lines(f"{len(material.documents)} documents, {len(material.passages)} passages{given}")
    print_lines(*(f"skipped: {one.path!a}: {one.reason}" for one in material.skipped[:_MAX_SKIPPED]))
    if len(material.skipped) > _MAX_SKIPPED:
        print_lines(f"skipped: {len(material.skipped) - _MAX_SKIPPED} more")


def show_estimate(phases: Sequence[Phase], rates: Rates, *, begun: bool) -> None:
    """Print the estimate, phase by phase."""
    table = Table("phase", "tokens written", "tokens trained on", "seconds, at most about", box=None, pad_edge=False)
    for phase in phases:
        table.add_row(phase.name, f"{phase.written:,}", f"{phase.trained:,}", f"{phase.seconds(rates):,.0f}")
    totals = ([p.written for p in phases], [p.trained for p in phases], [p.seconds(rates) for p in phases])
    table.add_row("all", *(f"{sum(column):,.0f}" for column in totals))
    print_table(table)
    if begun:
        print_lines("some of it was done before and is not repeated")


def show_record(folder: AdaptedFolder) -> None:
    """Print the exams, and where the result is."""
    record = folder.record()
    for exam in record.exams:
        print_table(exam_table(exam_title(exam), [(scores.condition, scores) for scores in exam.scores]))
    print_lines(
        f"{record.num_kept} of {record.num_edits} self-edits on {record.num_passages} passages were kept; "
        f"{sum(record.seconds.values()):.0f} s",
        f"adapter {folder.adapter}, edits {folder.edits}",
        f'ask it: seal ask {folder.path} "…"',
    )
