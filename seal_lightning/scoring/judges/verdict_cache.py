"""Decisions on the disk, by the content of what was asked: the second time a question costs nothing.

One small file a decision, named by the SHA-256 of the judge's identity and the question; the texts themselves are not
stored. Several processes may share a folder: files are whole or not there, and two that decide the same write the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import RunError, require
from seal_lightning.storage import atomic_files

FORMAT = 1
MAX_REASON = 500
_MAX_BYTES = 16_384
_SHARDS = 256
_writing = threading.Lock()
"""A scratch file is named by its process, so threads take turns."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A stored decision; ``key`` says that the file is what its name says."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    key: str
    option: str
    reason: str
    probabilities: tuple[float, ...] | None = None


_entries = TypeAdapter(_Entry)


class VerdictCache:
    """Decisions by (judge's identity, question).

    Args:
        folder: where they are; made when the first is stored.
        max_entries: ≥ 256: where there are more, the oldest go.
    """

    def __init__(self, folder: Path, max_entries: int = 200_000) -> None:
        require(max_entries >= _SHARDS, "judge.max_cached", max_entries, f"at least {_SHARDS}")
        self.folder = folder
        self.max_entries = max_entries
        self._refused = False

    @staticmethod
    def key(identity: Mapping[str, object], question: JudgeQuestion) -> str:
        """The name of a question to a judge: everything that a decision depends on, and nothing secret."""
        asked = [question.instruction, question.material, question.options]
        content = json.dumps([FORMAT, dict(identity), asked], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def get(self, key: str, question: JudgeQuestion) -> Judgement | None:
        """The stored decision; None where there is none, or it is damaged."""
        try:
            with self._path(key).open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
            entry = _entries.validate_json(content) if len(content) <= _MAX_BYTES else None
        except (OSError, ValidationError):
            return None
        if entry is None or entry.key != key or entry.option not in question.options:
            return None
        if entry.probabilities is not None and not _is_distribution(entry.probabilities, len(question.options)):
            return None
        return Judgement(option=entry.option, reason=entry.reason, probabilities=entry.probabilities)

    def put(self, key: str, judgement: Judgement) -> None:
        """Store a decision; what is undecided is not stored. A disk that refuses is told of once: the run can go on."""
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
            if not self._refused:
                self._refused = True
                _log.warning("the judge's decisions are not cached: %s", str(error).split(". ", 1)[0])

    def _make_room(self, shard: Path) -> None:
        """Where a shard is over its share, a tenth of it goes, the oldest first."""
        limit = self.max_entries // _SHARDS
        paths = list(shard.glob("*.json"))
        if len(paths) <= limit:
            return
        ages = sorted((_modified(path), path) for path in paths)
        for _, path in ages[: len(ages) - limit + limit // 10]:
            with suppress(OSError):  # another process was faster
                os.unlink(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_distribution(probabilities: tuple[float, ...], num_options: int) -> bool:
    in_bounds = all(0 <= p <= 1 for p in probabilities)
    return len(probabilities) == num_options and in_bounds and abs(sum(probabilities) - 1) < 1e-3
