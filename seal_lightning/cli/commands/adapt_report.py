"""What ``seal adapt`` shows: what was read, what it will take, how far it is, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich import progress as rich_progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seal_lightning.adapt.adapting import Material
from seal_lightning.adapt.estimate import Phase
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.progress import Progress
from seal_lightning.adapt.record import ExamRecord
from seal_lightning.core.estimates import shown_estimate

_MAX_SKIPPED = 5


class TerminalProgress(Progress):
    """Bars on a terminal; elsewhere a line when a phase begins and ends.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: rich_progress.Progress | None = None

    def __enter__(self) -> TerminalProgress:
        if self.console.is_terminal:
            self._bars = rich_progress.Progress(
                rich_progress.TextColumn("{task.description:<20}"),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TimeRemainingColumn(),
                console=self.console,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar, or two lines."""
        start = time.perf_counter()
        if self._bars is not None:
            task = self._bars.add_task(name, total=total)
            bars = self._bars
            yield lambda parts: bars.advance(task, parts)
            bars.update(task, completed=total)
            return
        self.console.print(f"{name}: {total}", soft_wrap=True)
        yield lambda parts: None
        self.console.print(f"{name}: done in {time.perf_counter() - start:.0f} s", soft_wrap=True)

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, soft_wrap=True)


def show_material(console: Console, material: Material) -> None:
    """What was read and what was left out."""
    num_questions = sum(len(passage.questions) for passage in material.passages)
    asked = f", {num_questions} questions given" if material.has_questions else ""
    console.print(f"{len(material.documents)} documents, {len(material.passages)} passages{asked}", soft_wrap=True)
    for one in material.skipped[:_MAX_SKIPPED]:
        console.print(f"left out: {one.path!a}: {one.reason}", soft_wrap=True)
    if len(material.skipped) > _MAX_SKIPPED:
        console.print(f"left out: {len(material.skipped) - _MAX_SKIPPED} more", soft_wrap=True)


def show_estimate(console: Console, phases: Sequence[Phase], *, begun: bool) -> None:
    """What it will take, phase by phase."""
    table = Table("phase", "tokens written", "tokens trained on", "seconds, at most about", box=None, pad_edge=False)
    for phase in phases:
        table.add_row(phase.name, f"{phase.tokens_written:,}", f"{phase.tokens_trained:,}", f"{phase.seconds:.0f}")
    columns = ("tokens_written", "tokens_trained", "seconds")
    table.add_row("all", *(f"{sum(getattr(phase, name) for phase in phases):,.0f}" for name in columns))
    console.print(table)
    if begun:
        console.print("some of it was done before, and is not made again", soft_wrap=True)


def show_record(console: Console, folder: AdaptedFolder) -> None:
    """The exams, and where everything is."""
    record = folder.record()
    for exam in record.exams:
        console.print(_exam_table(exam))
    seconds = sum(record.seconds.values())
    console.print(
        f"{record.num_kept} of {record.num_edits} self-edits on {record.num_passages} passages were learned; "
        f"{seconds:.0f} s\n"
        f'adapter {folder.adapter}, edits {folder.edits}\nask it: seal ask {folder.path} "…"',
        soft_wrap=True,
    )


def _exam_table(exam: ExamRecord) -> Table:
    title = f"{exam.name}: {exam.num_questions} questions by {exam.by} on {exam.num_passages} passages"
    if exam.name == "probe":
        title = f"{exam.name}: {exam.num_questions} questions of general knowledge by {exam.by}"
    table = Table(
        "",
        "log-prob",
        "accuracy",
        "gain",
        "over passages only",
        title=Text(title),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for row in exam.scores:
        table.add_row(
            Text(row.condition),
            shown_estimate(row.log_prob, 2),
            shown_estimate(row.accuracy),
            shown_estimate(row.gain, 2, signed=True),
            shown_estimate(row.over_control, 2, signed=True),
        )
    return table
