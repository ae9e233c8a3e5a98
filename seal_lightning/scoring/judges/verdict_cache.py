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
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.core.errors import RunError
from seal_lightning.storage import atomic_files

FORMAT = 1
MAX_REASON = 500
_writing = threading.Lock()
"""A scratch file is named by its process, so threads take turns."""
_judgements = TypeAdapter(Judgement)

_log = logging.getLogger(__name__)


class VerdictCache:
    """Decisions by (judge's identity, question), in a folder that is made with the first one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
            found: Judgement = _judgements.validate_json(self._path(key).read_bytes(), strict=True)
        except (OSError, ValidationError):
            return None
        complete = found.probabilities is None or len(found.probabilities) == len(question.options)
        return found if found.option in question.options and complete else None

    def put(self, key: str, judgement: Judgement) -> None:
        """Store a decision; an undecided question is not stored. A full disk is warned of once and raises nothing."""
        if judgement.option is None:
            return
        try:
            with _writing:
                short = replace(judgement, reason=judgement.reason[:MAX_REASON])
                atomic_files.write_bytes(self._path(key), _judgements.dump_json(short))
        except RunError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("the judge's decisions are not cached: %s", str(error).split(". ", 1)[0])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
