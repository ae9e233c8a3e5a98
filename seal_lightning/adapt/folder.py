"""An adapted folder: a PEFT adapter, its description, and how both are found. No torch, so listing starts at once.

adapter/         a standard PEFT folder, with a model card
merged/          a full model, where that was asked for
edits.jsonl      the self-edits, and which were kept
exam.jsonl       the questions of its exams
adapted.json     see :class:`AdaptedRecord`; written last
work/            journals that a resume goes on from
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seal_lightning.adapt.record import RECORD_VERSION, AdaptedRecord
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.storage import atomic_files

_RECORD = TypeAdapter(AdaptedRecord)
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class AdaptedFolder:
    """What ``seal adapt`` left at a path."""

    path: Path

    @classmethod
    def named(cls, path: str | Path, what: str = "DIR") -> AdaptedFolder:
        """The adapted folder at a path a user named.

        Raises :class:`ConfigError` for what is no path of a folder, :class:`RunError` where ``seal adapt`` has not ended.
        """
        folder = cls(checked_run_dir(path, what))
        folder.check_inside()
        if not folder.is_finished:
            begun = (
                f"`seal adapt` has not ended there; the same command goes on with it ({folder.work} has what it did)"
            )
            raise RunError(
                f"{what}: {shown(str(path))} is no adapted folder: it has no adapted.json. "
                + (begun if folder.work.is_dir() else "Make one with `seal adapt PATH --out DIR`")
            )
        return folder

    @property
    def name(self) -> str:
        """The folder's own name, as a server calls the model."""
        return self.path.resolve().name

    @property
    def is_finished(self) -> bool:
        """Whether all of it is there."""
        return self.record_file.is_file()

    @property
    def is_ours(self) -> bool:
        """Whether nothing of anybody else's is there: it was begun or finished by an adaptation, or is empty."""
        if self.is_finished or (self.work / "job.json").is_file():
            return True
        begun = [path for path in self.path.iterdir() if path != self.lock_file]
        return not begun or (begun == [self.work] and not any(p.suffix != ".tmp" for p in self.work.iterdir()))

    @property
    def record_file(self) -> Path:
        """What it says about itself."""
        return self.path / "adapted.json"

    @property
    def adapter(self) -> Path:
        """The PEFT folder."""
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        """The full model, if there is one."""
        return self.path / "merged"

    @property
    def edits(self) -> Path:
        """The self-edits."""
        return self.path / "edits.jsonl"

    @property
    def exam(self) -> Path:
        """The questions of its exams, for an adaptation that goes on from this one."""
        return self.path / "exam.jsonl"

    @property
    def lock_file(self) -> Path:
        """Held by whoever makes the folder."""
        return self.path / ".lock"

    @property
    def work(self) -> Path:
        """What a resume goes on from."""
        return self.path / "work"

    def record(self) -> AdaptedRecord:
        """What the folder says about itself. Raises :class:`RunError` where that is no such description."""
        try:
            size = self.record_file.stat().st_size
            if size > _MOST_BYTES:
                raise RunError(f"{self.record_file} has {size} bytes; at most {_MOST_BYTES} are read")
            content = self.record_file.read_bytes()
            version = json.loads(content).get("version")
            if version != RECORD_VERSION:
                raise RunError(
                    f"{self.record_file} is of version {shown(version)}; this package reads version {RECORD_VERSION}"
                )
            return _RECORD.validate_json(content)
        except OSError as error:
            raise RunError(f"{self.record_file} cannot be read: {error.strerror or error}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else shown(str(error), 200)
            raise RunError(f"{self.record_file} is no description of an adapted folder ({reason})") from error

    def write_record(self, record: AdaptedRecord) -> None:
        """Say that all of it is there. Raises :class:`RunError` when the disk refuses."""
        atomic_files.write_bytes(self.record_file, _RECORD.dump_json(record, indent=1) + b"\n")

    def check_inside(self) -> None:
        """Raise :class:`RunError` where a part of the folder is a link: nothing outside is read for it, or written."""
        for path in (self.record_file, self.adapter, self.merged, self.edits, self.exam, self.lock_file, self.work):
            if path.is_symlink():
                raise RunError(
                    f"{path} is a link; nothing was read or written. Put what it leads to in its place: an adapted folder "
                    "may lie anywhere, but as a whole"
                )
