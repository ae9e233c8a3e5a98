"""Passages as the SEAL release stores them: ``{title, context, questions: [{question, answer}]}``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.records import (
    PassageRow,
    json_kind,
    parse_json,
    read_bytes,
    read_json,
    validated,
)
from seal_lightning.domains.knowledge.sources import Located, PassageSource, build_passage, located


@dataclass
class PassagesJson(PassageSource):
    """A JSON file with a list of passages. An answer is a text or a list of texts; other keys are ignored.

    Without ``require_questions``, a passage needs no key ``questions``.
    """

    path: str | Path

    @property
    def origin(self) -> str:
        """The file's path."""
        return str(self.path)

    def passages(self) -> Iterator[Located]:
        """The list's passages."""
        rows = read_json(Path(self.path).expanduser())
        if not isinstance(rows, list):
            raise DataError(f"{self.path}: must hold a list of passages; it is {json_kind(rows)}")
        for index, row in enumerate(rows):
            yield located(f"record {index}", partial(passage_of_row, row, self.require_questions))


@dataclass
class PassagesJsonl(PassageSource):
    """As :class:`PassagesJson`, one passage a line; blank lines are ignored."""

    path: str | Path

    @property
    def origin(self) -> str:
        """The file's path."""
        return str(self.path)

    def passages(self) -> Iterator[Located]:
        """The lines' passages."""
        lines = read_bytes(Path(self.path).expanduser()).split(b"\n")
        filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        for index, (number, line) in enumerate(filled):
            yield located(f"line {number} (record {index})", partial(_passage_of_line, line, self.require_questions))


def _passage_of_line(line: bytes, require_questions: bool) -> Passage:
    return passage_of_row(parse_json(line), require_questions)


def passage_of_row(row: object, require_questions: bool) -> Passage:
    """The passage of ``{title, context, questions}``. Raises :class:`RecordError` for what is none."""
    if not require_questions and isinstance(row, dict):
        row = {"questions": [], **row}
    record = validated(PassageRow, row)
    return build_passage(record.title, record.context, [(None, q.question, q.answer) for q in record.questions])
