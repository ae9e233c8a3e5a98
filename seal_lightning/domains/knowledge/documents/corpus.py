"""JSON files among documents: SQuAD, lists of passages with their questions, and corpora of texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seal_lightning.domains.knowledge.documents.encodings import cleaned
from seal_lightning.domains.knowledge.documents.extract import Unreadable
from seal_lightning.domains.knowledge.documents.kinds import Kind
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.passages_json import passage_of_row
from seal_lightning.domains.knowledge.records import Record, RecordError, Text, json_kind, parse_json, validated
from seal_lightning.domains.knowledge.squad import paragraphs


class TextRow(Record):
    """A record of a corpus; other keys are ignored."""

    text: Text
    title: Text | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusText:
    """A text of a corpus, to be split like a document."""

    title: str | None
    text: str


Row = tuple[str, Passage | CorpusText | RecordError]
"""A record's place in its file, and what it is or why it is nothing."""


def read_corpus(kind: Kind, content: bytes, path: str, require_questions: bool) -> tuple[str, Iterator[Row]]:
    """What the file is called in a record of what was read (``squad``, ``json`` or ``jsonl``), and its records.

    An object with a list ``data`` is SQuAD's; in a list, and in lines, an object with a ``text`` and no ``context`` is of a
    corpus, any other a passage. Raises :class:`Unreadable` where the file is none of these.
    """
    if kind == "jsonl":
        return "jsonl", _lines(content, require_questions)
    try:
        value = parse_json(content)
    except RecordError as error:
        raise Unreadable(str(error)) from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return "squad", iter(paragraphs(value, path))
    if isinstance(value, dict):
        value = [value] if "text" in value or "context" in value else None
    if not isinstance(value, list):
        allowed = "SQuAD's object with a list 'data', a list of passages or a list of texts"
        raise Unreadable(f"must hold {allowed}; it is {json_kind(parse_json(content))}")
    rows = enumerate(value)
    return "json", ((f"record {index}", _row(row, require_questions)) for index, row in rows)


def _lines(content: bytes, require_questions: bool) -> Iterator[Row]:
    index = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                found = _row(parse_json(line), require_questions)
            except RecordError as error:
                found = error
            yield f"line {number} (record {index})", found
            index += 1


def _row(row: object, require_questions: bool) -> Passage | CorpusText | RecordError:
    try:
        if isinstance(row, dict) and "text" in row and "context" not in row:
            record = validated(TextRow, row)
            return CorpusText(title=record.title, text=cleaned(record.text))
        return passage_of_row(row, require_questions)
    except RecordError as error:
        return error
