"""Decisions on disk, by the content of the question: a repeated question costs nothing.

Each decision is one small file, named by the SHA-256 of the judge's identity and the question; the texts are not stored.
Several processes may share a folder: files are written atomically, and two that decide the same write the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import RunError, require
from seal_lightning.storage import atomic_files

FORMAT = 1
MAX_REASON = 500
_SHARDS = 256
_writing = threading.Lock()
"""A scratch file is named by its process, so threads take turns."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A stored decision; ``key`` repeats the file's name."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    key: str
    option: str
    reason: str
    probabilities: tuple[float, ...] | None = None


_entries = TypeAdapter(_Entry)


class VerdictCache:
    """Decisions by (judge's identity, question).

    Args:
        folder: of the files; made when the first decision is stored.
        max_entries: ≥ 256: beyond that, the oldest are deleted.
    """

    def __init__(self, folder: Path, max_entries: int = 200_000) -> None:
        require(max_entries >= _SHARDS, "judge.max_cached", max_entries, f"at least {_SHARDS}")
        self.folder = folder
        self.max_entries = max_entries
        self._has_warned = False

    @staticmethod
    def key(identity: Mapping[str, object], question: JudgeQuestion) -> str:
        """Return the name of a question to a judge: a hash of everything a decision depends on, and of no secret."""
        parts = [question.instruction, question.material, question.options]
        content = json.dumps([FORMAT, dict(identity), parts], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def get(self, key: str, question: JudgeQuestion) -> Judgement | None:
        """Return the stored decision; None where it is missing or damaged."""
        try:
            entry = _entries.validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None
        if entry.key != key or entry.option not in question.options:
            return None
        if entry.probabilities is not None and len(entry.probabilities) != len(question.options):
            return None
        return Judgement(option=entry.option, reason=entry.reason, probabilities=entry.probabilities)

    def put(self, key: str, judgement: Judgement) -> None:
        """Store a decision; an undecided question is not stored. A full disk is warned of once and raises nothing."""
        if judgement.option is None:
            return
        entry = _Entry(
            key=key,
            option=judgement.option,
            reason=judgement.reason[:MAX_REASON],
            probabilities=judgement.probabilities,
        )
        try:
            with _writing:
                atomic_files.write_bytes(self._path(key), _entries.dump_json(entry))
                self._make_room(self._path(key).parent)
        except RunError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("the judge's decisions are not cached: %s", str(error).split(". ", 1)[0])

    def _make_room(self, shard: Path) -> None:
        """Delete the oldest tenth of a shard that is over its share."""
        limit = self.max_entries // _SHARDS
        paths = list(shard.glob("*.json"))
        if len(paths) <= limit:
            return
        paths.sort(key=lambda path: (path.stat().st_mtime_ns if path.exists() else 0, path))
        for path in paths[: len(paths) - limit + limit // 10]:
            path.unlink(missing_ok=True)  # another process may be faster

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
