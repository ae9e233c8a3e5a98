"""An adapted folder and its record ``adapted.json``. No torch, so listing starts at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import JSON
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.estimates import Estimate
from seal_lightning.core.names import checked_run_dir
from seal_lightning.storage import atomic_files

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def is_hub_id(source: str) -> bool:
    """Return whether a model's name has the form of a hub id and is not a local folder."""
    return _HUB_ID.fullmatch(source) is not None and not os.path.isdir(source)


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model whose weights the adapter changes: the fields of :class:`seal_lightning.models.pretrained.Pretrained`."""

    source: str
    """A hub id, a local folder or ``embedded``."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    trust_remote_code: bool = False

    def identity(self) -> tuple[str, str | None]:
        """Return (source, revision), equal for two records of one base however its folder was written."""
        from seal_lightning.models.pretrained import EMBEDDED, embedded_folder  # imports torch

        source = str(embedded_folder()) if self.source == EMBEDDED else self.source
        return (os.path.realpath(source) if os.path.isdir(source) else source), self.revision

    def described(self) -> str:
        """Return the source and the revision for a message."""
        return shown(self.source) + (f" at {shown(self.revision)}" if self.revision else "")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Prompt settings of the model's exams, used again by later exams."""

    style: Literal["base", "chat"] = "base"
    """``base``: lines with headings, which the model continues; ``chat``: one user turn."""
    topic: str = "Topic:"
    """Stands before a title; an empty string omits titles."""
    question: str = "Question:"
    answer: str = "Answer:"
    chat_instruction: str = ""
    """Ends the user's turn of a chat."""
    max_answer_tokens: int = 64
    """≥ 1."""


@dataclass(frozen=True, kw_only=True)
class DocumentRecord:
    """A document that was read."""

    path: str
    """As it was given."""
    sha256: str
    """Of the file's bytes."""
    kind: str
    """The document's format, for instance ``markdown`` or ``pdf``."""
    num_passages: int


@dataclass(frozen=True, kw_only=True)
class SkippedRecord:
    """A document, or a part of one, that was skipped."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConditionScores:
    """One exam under one condition: means over passages (a probe: over questions) with standard errors."""

    condition: str
    """``before``, ``passages only`` or ``adapted``."""
    log_prob: Estimate | None
    """Mean log-probability of the gold answers' tokens, nats."""
    accuracy: Estimate | None = None
    """In [0, 1]; None if no answers were generated."""
    gain: Estimate | None = None
    """Log-probability minus that of ``before``, paired; None for ``before`` itself."""
    over_control: Estimate | None = None
    """Log-probability of ``adapted`` minus that of ``passages only``, paired; None if that was not measured."""


@dataclass(frozen=True, kw_only=True)
class ExamRecord:
    """One exam, the same questions under every condition."""

    name: str
    """``these documents``, ``earlier documents (NAME)`` or ``probe``."""
    num_questions: int
    num_passages: int
    by: str
    """The author of the questions: ``the model``, ``the user``, ``this package``."""
    scores: tuple[ConditionScores, ...]
    questions_sha256: str = ""
    """:func:`questions_sha256`: exams with equal hashes are comparable. Empty: unknown."""


def questions_sha256(questions: Iterable[tuple[str, str, str]]) -> str:
    """Hash an exam's (title, question, first gold answer) triples, independent of their order."""
    return hashlib.sha256(json.dumps(sorted(questions)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class MergedFrom:
    """The weighted sum of the updates of several adapted folders."""

    weights: dict[str, float]
    """By the folder's path; each ≠ 0."""
    rank: int
    """≥ 1, of the sum as it was written."""
    sum_of_ranks: int
    """Rank before truncation."""


@dataclass(frozen=True, kw_only=True)
class AdaptedRecord:
    """``adapted.json``: an adapted folder's description of itself."""

    version: Literal[1] = 1
    base: BaseModel
    asking: Asking
    documents: tuple[DocumentRecord, ...] = ()
    skipped: tuple[SkippedRecord, ...] = ()
    exams: tuple[ExamRecord, ...] = ()
    earlier: tuple[str, ...] = ()
    """Names of the adapted folders whose updates are part of this one's, oldest first."""
    merged: MergedFrom | None = None
    """For a folder of ``seal adapters merge``."""
    num_passages: int = 0
    num_edits: int = 0
    """Edits that were tried."""
    num_kept: int = 0
    """Edits that were trained on."""
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, resumed work included."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of this package and of its main dependencies."""
    settings: dict[str, JSON] = field(default_factory=dict)
    """Every setting, as in a configuration file."""


_RECORD = TypeAdapter(AdaptedRecord)


def held_before(record: AdaptedRecord) -> tuple[str, ...]:
    """Return what the weights already held when the exams' ``before`` was measured; empty for the plain base model.

    These are earlier adaptations, oldest first, or the policy of a run: ``settings["start"]`` then has ``run``, its path,
    and ``rounds`` (see ``StartingModel.identity``).
    """
    if record.earlier:
        return record.earlier
    start = record.settings.get("start")
    if not isinstance(start, dict) or not isinstance(start.get("run"), str) or not start.get("rounds"):
        return ()
    return (f"the policy of the run {PureWindowsPath(str(start['run'])).name}",)


def differing(values: Sequence[JSON], name: str = "") -> dict[str, list[JSON]]:
    """Return the dotted names at which plain values differ, with the value of each, None if it is missing."""
    mappings = [value for value in values if isinstance(value, dict)]
    if len(mappings) < len(values):
        return {} if all(value == values[0] for value in values) else {name: list(values)}
    found: dict[str, list[JSON]] = {}
    for key in dict.fromkeys(chain.from_iterable(mappings)):
        found |= differing([mapping.get(key) for mapping in mappings], f"{name}.{key}".lstrip("."))
    return found


class AdaptedFolder:
    """The output folder of ``seal adapt``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter = path / "adapter"
        """A standard PEFT folder, with a model card."""
        self.merged = path / "merged"
        """A full model, if it was requested."""
        self.edits = path / "edits.jsonl"
        """The self-edits, and which were kept."""
        self.exam = path / "exam.jsonl"
        """The questions of its exams, for an adaptation that starts from this one."""
        self.work = path / "work"
        """Journals that an interrupted adaptation resumes from."""
        self.record_file = path / "adapted.json"
        """See :class:`AdaptedRecord`. It is written last, so the folder is then complete."""
        self.lock_file = path / ".lock"
        """Held by the process that writes the folder."""

    @classmethod
    def named(cls, path: str | Path, what: str = "DIR") -> AdaptedFolder:
        """Return the adapted folder at a path from the command line.

        Raises :class:`ConfigError` for an invalid path, :class:`RunError` for a folder without ``adapted.json``.
        """
        folder = cls(checked_run_dir(path, what))
        folder.check_links()
        if not folder.record_file.is_file():
            begun = "repeat the interrupted `seal adapt` command to resume it"
            advice = begun if folder.work.is_dir() else "make one with `seal adapt PATH --out DIR`"
            raise RunError(f"{what}: {shown(str(path))} is not an adapted folder: adapted.json is missing; {advice}")
        return folder

    @property
    def name(self) -> str:
        """The folder's own name, by which a server calls the model."""
        return self.path.resolve().name

    @property
    def is_finished(self) -> bool:
        """True once ``adapted.json`` exists."""
        return self.record_file.is_file()

    def record(self) -> AdaptedRecord:
        """Read ``adapted.json``. Raises :class:`RunError` if it cannot be read or is invalid."""
        try:
            return _RECORD.validate_json(self.record_file.read_bytes())
        except OSError as error:
            raise RunError(f"{self.record_file} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            field_name = ".".join(map(str, first["loc"]))
            raise RunError(f"{self.record_file} is not a valid record: {field_name}: {first['msg']}") from error

    def write_record(self, record: AdaptedRecord) -> None:
        """Write ``adapted.json``, which marks the folder as complete. Raises :class:`RunError` if the disk refuses."""
        atomic_files.write_bytes(self.record_file, _RECORD.dump_json(record, indent=1) + b"\n")

    def check_links(self) -> None:
        """Raise :class:`RunError` if a part of the folder is a symbolic link.

        A folder may come from a stranger; its links must not make us read, push or write files elsewhere.
        """
        for path in (self.record_file, self.adapter, self.merged, self.edits, self.exam, self.lock_file, self.work):
            if path.is_symlink():
                raise RunError(f"{path} is a symbolic link, which is not allowed here. Copy its target to this place")
