"""Stored attempts: the E-step's only truth. What is stored is never tried again, whoever tried it."""

from __future__ import annotations

from pathlib import Path

from seal_lightning.records import RecordFile
from seal_lightning.types import Attempt


class AttemptStore:
    """The attempts of one round, by id; kept in a folder of JSONL files, one a rank, or in memory only.

    Each rank appends to its own file and reads everyone's, so a resumed run may have another number of ranks.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self.folder = folder
        self._file = None if folder is None else RecordFile(folder / f"attempts.rank{rank}.jsonl", Attempt)
        self._attempts = {attempt.attempt_id: attempt for attempt in self._stored()}

    def get(self, attempt_id: str) -> Attempt | None:
        """The attempt of that id, if it was made."""
        return self._attempts.get(attempt_id)

    def add(self, attempt: Attempt) -> None:
        """Store an attempt; it is on the disk when this returns."""
        if self._file is not None:
            self._file.append(attempt)
        self._attempts[attempt.attempt_id] = attempt

    def all(self) -> list[Attempt]:
        """All attempts this rank knows of."""
        return list(self._attempts.values())

    def _stored(self) -> list[Attempt]:
        if self.folder is None:
            return []
        files = sorted(self.folder.glob("attempts.rank*.jsonl"))
        return [attempt for file in files for attempt in RecordFile(file, Attempt).read()]
