"""Journals of an interrupted adaptation: every piece of work is stored as soon as it is done, and never repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from seal_lightning.adapt.record import AdaptedFolder, differing
from seal_lightning.core import SelfEdit
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.storage.atomic_files import make_folder, remove_leftovers, reporting, write_bytes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import Journal, RecordFile

_MAX_NAMED = 4


class Progress:
    """Progress of the phases: bars on a terminal; elsewhere a line when a phase begins.

    Args:
        console: the terminal or file that is written to.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Bars(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        """A context manager that shows the bars."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Announce a phase of ``total`` parts; yields a function to call with the number of parts just done."""
        if self.bars.disable:
            self.say(f"{name}: {total}")
        task = self.bars.add_task(name, total=total)
        yield lambda parts: self.bars.advance(task, parts)

    def say(self, text: str) -> None:
        """Print a line of text."""
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class WrittenQuestions:
    """The questions that a model wrote about a passage."""

    task_id: str
    questions: tuple[tuple[str, str], ...]
    """(question, answer) pairs; empty if it wrote no usable one."""


@dataclass(frozen=True, kw_only=True)
class WrittenEdit:
    """A self-edit as it was sampled."""

    step: int
    """The passage's index when each is merged before the next (``--continual``), else 0."""
    edit: SelfEdit


@dataclass(frozen=True, kw_only=True)
class AnchorText:
    """A text that the model wrote before it learned anything."""

    text: str


@dataclass(frozen=True, kw_only=True)
class CompletedStep:
    """A finished piece of training; its update, if there is one, is in the folder of its name."""

    name: str
    merged: bool
    """Whether there is an update: a gate may have refused it."""
    num_steps: int
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseSeconds:
    """Time that one process spent in a phase."""

    phase: str
    seconds: float


class Workspace:
    """The journals in ``work/`` of an adapted folder.

    Args:
        folder: the output folder of the adaptation.
    """

    def __init__(self, folder: AdaptedFolder) -> None:
        self.path = folder.work
        self.questions = Journal(self.path / "questions.jsonl", WrittenQuestions)
        self.edits = Journal(self.path / "edits.jsonl", WrittenEdit)
        self.steps = Journal(self.path / "steps.jsonl", CompletedStep)
        self.anchor = RecordFile(self.path / "anchor.jsonl", AnchorText)
        self._seconds = Journal(self.path / "seconds.jsonl", PhaseSeconds)
        self._job_file = self.path / "job.json"
        self.attempts: AttemptStore

    def begin(self, job: dict[str, Any]) -> None:
        """Start this job, or resume it.

        Raises :class:`ConfigError` if another job was begun here, :class:`RunError` for a damaged journal.
        """
        begun = self.check(job)
        with reporting(self.path):
            make_folder(self.path)
            remove_leftovers(self.path)
        if not begun:
            write_bytes(self._job_file, json.dumps(job, indent=1, sort_keys=True).encode(errors="backslashreplace"))
        self.attempts = AttemptStore(self.path)

    def check(self, job: dict[str, Any]) -> bool:
        """Return whether this job was begun here. Raises :class:`ConfigError` if another one was."""
        if not self._job_file.exists():
            return False
        try:
            known = json.loads(self._job_file.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{self._job_file} cannot be read ({shown(str(error))}); name another --out") from error
        if different := sorted(differing([known, json.loads(json.dumps(job))])):
            named = ", ".join(different[:_MAX_NAMED])
            raise ConfigError(
                f"--out: {self.path.parent} holds an adaptation that was begun with other settings: {named}. Repeat its "
                "command to resume it, or name another --out"
            )
        return True

    def update_folder(self, name: str) -> Path:
        """Return the PEFT folder for the update of a piece of training."""
        return self.path / "updates" / name

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the block, also of one that is interrupted."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.append(PhaseSeconds(phase=phase, seconds=time.perf_counter() - start))

    def seconds(self) -> dict[str, float]:
        """Return the seconds per phase over all processes that worked here, to a tenth of a second."""
        total: dict[str, float] = {}
        for spent in self._seconds.read():
            total[spent.phase] = total.get(spent.phase, 0.0) + spent.seconds
        return {phase: round(seconds, 1) for phase, seconds in total.items()}

    def close(self) -> None:
        """Close the journals."""
        for journal in (self.questions, self.edits, self.steps, self._seconds):
            journal.close()
        if hasattr(self, "attempts"):
            self.attempts.close()
