"""What an interrupted adaptation goes on from: every piece of work is in a journal as soon as it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal_lightning.adapt.anchoring import AnchorText
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.core import SelfEdit
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.storage.atomic_files import make_folder, remove_leftovers, reporting, write_bytes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.journal import Journal, RecordFile

_MAX_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class WrittenQuestions:
    """What a model asked about a passage."""

    task_id: str
    questions: tuple[tuple[str, str], ...]
    """(question, answer) pairs; none where it wrote none that can be asked."""


@dataclass(frozen=True, kw_only=True)
class WrittenEdit:
    """A self-edit as it was sampled in a step; steps are apart only where each is merged before the next."""

    step: int
    edit: SelfEdit


@dataclass(frozen=True, kw_only=True)
class TakenStep:
    """A piece of training that has ended; its update, if there is one, lies in the folder of its name."""

    name: str
    merged: bool
    """Whether there is an update: a gate may have refused it."""
    num_steps: int
    num_tokens: int
    final_loss: float | None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseSeconds:
    """Time spent in a phase, by one process."""

    phase: str
    seconds: float


class Workspace:
    """The journals in ``work/`` of an adapted folder.

    Args:
        folder: where the adaptation is made.
    """

    def __init__(self, folder: AdaptedFolder) -> None:
        self.path = folder.work
        self.questions = Journal(self.path / "questions.jsonl", WrittenQuestions)
        self.edits = Journal(self.path / "edits.jsonl", WrittenEdit)
        self.steps = Journal(self.path / "steps.jsonl", TakenStep)
        self.anchor = RecordFile(self.path / "anchor.jsonl", AnchorText)
        self._seconds = Journal(self.path / "seconds.jsonl", PhaseSeconds)
        self.attempts: AttemptStore

    @property
    def job_file(self) -> Path:
        """What is being done."""
        return self.path / "job.json"

    def begin(self, job: dict[str, Any]) -> bool:
        """Start this job or go on with it; returns whether it was begun before.

        Raises :class:`ConfigError` where another job was begun here, :class:`RunError` for a damaged journal.
        """
        begun = self.check(job)
        with reporting(self.path):
            make_folder(self.path)
            remove_leftovers(self.path)
        if not begun:
            write_bytes(self.job_file, json.dumps(job, indent=1, sort_keys=True).encode(errors="backslashreplace"))
        self.attempts = AttemptStore(self.path)
        return begun

    def check(self, job: dict[str, Any]) -> bool:
        """Whether this job was begun here. Raises :class:`ConfigError` where another one was."""
        if not self.job_file.exists():
            return False
        try:
            known = json.loads(self.job_file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.job_file} cannot be read ({shown(str(error))}); name another --out") from error
        wanted = json.loads(json.dumps(job))
        if different := sorted(_different(known, wanted)):
            named = ", ".join(different[:_MAX_NAMED]) + (" …" if len(different) > _MAX_NAMED else "")
            raise ConfigError(
                f"--out: {self.path.parent} holds an adaptation that was begun with something else: {named}. Nothing in it "
                "was touched. Give the same command to go on with it, or name another --out"
            )
        return True

    def update_folder(self, name: str) -> Path:
        """Where the update of a piece of training is kept, as a PEFT folder."""
        return self.path / "updates" / name

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the block, also of one that is cut short."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.append(PhaseSeconds(phase=phase, seconds=time.perf_counter() - start))

    def seconds(self) -> dict[str, float]:
        """By phase, over all processes that worked here."""
        total: dict[str, float] = {}
        for spent in self._seconds.read():
            total[spent.phase] = total.get(spent.phase, 0.0) + spent.seconds
        return total

    def close(self) -> None:
        """Let another process go on here."""
        for journal in (self.questions, self.edits, self.steps, self._seconds):
            journal.close()
        if hasattr(self, "attempts"):
            self.attempts.close()


def _different(known: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """The places at which two jobs differ."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        for name in known.keys() | wanted.keys():
            yield from _different(known.get(name), wanted.get(name), f"{place}.{name}".lstrip("."))
    elif known != wanted:
        yield place or "everything"
