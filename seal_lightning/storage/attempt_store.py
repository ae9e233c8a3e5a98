"""The stored attempts of a round. Stored attempts are never recomputed, on any rank."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from seal_lightning.core import Attempt
from seal_lightning.storage.journal import Journal


class AttemptStore:
    """The attempts of one round, by id; kept in a folder of journals, one per rank, or in memory only.

    Each rank appends to its own journal and reads everyone's, so a resumed run may have another number of ranks.
    """

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        self.folder = folder
        self._journal = None if folder is None else Journal(folder / f"attempts.rank{rank}.jsonl", Attempt)
        self._attempts: dict[str, Attempt] = {}
        self._added: list[str] = []
        for journal in [] if folder is None else journals(folder):
            for attempt in journal.read():
                self._attempts.setdefault(attempt.attempt_id, attempt)

    def get(self, attempt_id: str) -> Attempt | None:
        """Return the attempt with that id, or None."""
        return self._attempts.get(attempt_id)

    def add(self, attempt: Attempt) -> Attempt:
        """Store an attempt; it is on the disk when this returns. Returns it as a resume would read it.

        Parts of a reward that are not finite are dropped: JSON has no such numbers.
        """
        finite = {name: part for name, part in attempt.reward_breakdown.items() if math.isfinite(part)}
        attempt = replace(attempt, reward_breakdown=finite)
        if self._journal is not None:
            attempt = self._journal.append(attempt)
        self._attempts[attempt.attempt_id] = attempt
        self._added.append(attempt.attempt_id)
        return attempt

    def restrict_to(self, ids: Collection[str]) -> bool:
        """Drop all attempts but these; returns whether all of them are here."""
        self._attempts = {name: self._attempts[name] for name in ids if name in self._attempts}
        return len(self._attempts) == len(ids)

    def added(self) -> list[Attempt]:
        """Return the attempts that :meth:`add` stored."""
        return [self._attempts[name] for name in self._added]

    def all(self) -> list[Attempt]:
        """Return all attempts that this rank knows of."""
        return list(self._attempts.values())

    def close(self) -> None:
        """Let another process write this rank's journal."""
        if self._journal is not None:
            self._journal.close()


def journals(folder: Path) -> list[Journal[Attempt]]:
    """Return the journals of a round's folder, in the order of the ranks."""
    files = sorted(folder.glob("attempts.rank*.jsonl"), key=lambda path: (len(path.name), path.name))
    return [Journal(file, Attempt) for file in files]
