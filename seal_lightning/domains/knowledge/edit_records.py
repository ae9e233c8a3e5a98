"""Self-edits in files of many shapes: what a record must have, and how one without an edit is described."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.passage import passage_id
from seal_lightning.domains.knowledge.records import (
    Record,
    RecordError,
    SquadTitle,
    Text,
    json_kind,
    parse_json,
    read_bytes,
    validated,
)

_LINES = (".jsonl", ".ndjson")
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class FoundEdits:
    """The self-edits of one record, and whose they are."""

    where: str
    """The record's place in its file, counted from 0 for records and from 1 for lines."""
    called: str
    """The record's title, task id or key, for messages."""
    task_ids: tuple[str, ...]
    """Ids that its task may have."""
    titles: tuple[str, ...]
    """Titles that its task may have, where nothing but a title is told."""
    texts: tuple[str, ...]
    edit_index: int | None = None
    """Which of its task's edits it is, where the record has one and says so."""


class _Names(Record):
    task_id: Text | None = None
    title: Text | None = None
    context: Text | None = None
    edit_index: Annotated[int, Field(ge=0, le=10**9)] | None = None


class _SquadName(Record):
    title: SquadTitle


def read_edits(path: Path, field: Sequence[str], writer: str | None) -> list[FoundEdits]:
    """The self-edits of a JSON or JSON Lines file, record by record.

    A file is a list of records, an object of records by task id or title, one record, or lines of records; also those of
    a run's journals. Raises :class:`DataError` that names the first record which has no edits where they are looked for.

    Args:
        path: of the file.
        field: the path to a record's edits, key by key; a part that is no key is split at its dots, the longest keys that
            are there winning. Empty: ``text``, ``completions``, or the ``text`` of ``edit``.
        writer: the key of the edits in an object of edits by writer.
    """
    found = []
    for where, key, value in _records(path):
        try:
            found.append(_found(where, key, value, field, writer))
        except RecordError as error:
            raise DataError(f"{path}: {where}: {error}") from error
    if not found:
        raise DataError(f"{path}: the file has no record")
    return found


def _records(path: Path) -> Iterator[tuple[str, str | None, object]]:
    """Place, key in an object of records, and value."""
    content = read_bytes(path)
    if path.suffix.lower() in _LINES:
        yield from _of_lines(path, content)
        return
    try:
        value = parse_json(content)
    except RecordError as error:
        if not _starts_with_a_line_of_json(content):
            raise DataError(f"{path}: {error}") from error
        yield from _of_lines(path, content)
        return
    if isinstance(value, list):
        yield from ((f"record {index}", None, item) for index, item in enumerate(value))
    elif isinstance(value, dict) and _is_record(value):
        yield "record 0", None, value
    elif isinstance(value, dict):
        yield from ((f"key {shown(key)}", key, item) for key, item in value.items())
    else:
        raise DataError(f"{path}: must hold a list of records or an object of them; it is {json_kind(value)}")


def _of_lines(path: Path, content: bytes) -> Iterator[tuple[str, str | None, object]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                yield f"line {number}", None, parse_json(line)
            except RecordError as error:
                raise DataError(f"{path}: line {number}: {error}") from error


def _starts_with_a_line_of_json(content: bytes) -> bool:
    try:
        return isinstance(parse_json(content.lstrip().split(b"\n", 1)[0]), dict)
    except RecordError:
        return False


def _is_record(value: dict[str, Any]) -> bool:
    told = (value.get(key) for key in ("task_id", "title", "context"))
    return any(isinstance(text, str) for text in told) or "record" in value


def _found(where: str, key: str | None, value: object, field: Sequence[str], writer: str | None) -> FoundEdits:
    if isinstance(value, (str, list)) and key is not None:
        value = {"completions": value}
    if not isinstance(value, dict):
        raise RecordError(f"must be a JSON object; it is {json_kind(value)}")
    record: dict[str, Any] = value
    if "crc" in record and isinstance(record.get("record"), dict):  # a line of a run's journal
        record = record["record"]
    if isinstance(record.get("edit"), dict):  # an attempt
        record = {**record, **record["edit"]}
    names = validated(_Names, record)
    texts = _texts(record, field, writer)
    task_ids = [] if names.task_id is None else [names.task_id]
    title = names.title or (key or "").strip()
    titles = [title, validated(_SquadName, {"title": title}).title] if title else []
    if names.context is not None:
        task_ids += [passage_id(one, names.context) for one in titles]
    by_title_only = not task_ids
    if key is not None:
        task_ids.append(key)
    if not task_ids and not titles:
        raise RecordError("does not say whose edit it is: it must have 'task_id', or 'title' and 'context'")
    return FoundEdits(
        where=where,
        called=title or task_ids[0],
        task_ids=tuple(dict.fromkeys(task_ids)),
        titles=tuple(dict.fromkeys(titles)) if by_title_only else (),
        texts=texts,
        edit_index=names.edit_index if len(texts) == 1 else None,
    )


def _texts(record: dict[str, Any], field: Sequence[str], writer: str | None) -> tuple[str, ...]:
    name = ".".join(field) or next((key for key in ("text", "completions") if key in record), "")
    if not name:
        raise RecordError(
            f"has no self-edit in 'text', 'completions' or 'edit'; its fields are {_keys(record)}. Name it with `field`"
        )
    value = _resolved(record, list(field)) if field else record[name]
    if isinstance(value, dict):
        value, name = _of_writer(value, name, writer), f"{name}.{writer}"
    elif writer is not None:
        raise RecordError(f"field '{name}' is {_kind(value)}, not the edits of several writers; leave `writer` out")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RecordError(f"field '{name}' must be a text or a list of texts; it is {_kind(value)}")
    return tuple(texts)


def _of_writer(by_writer: dict[str, Any], name: str, writer: str | None) -> object:
    if writer is None:
        raise RecordError(f"field '{name}' has the edits of several writers: {_keys(by_writer)}. Set `writer` to one")
    if writer not in by_writer:
        raise RecordError(f"field '{name}' has no edits of the writer {shown(writer)}; there are {_keys(by_writer)}")
    return by_writer[writer]


def _resolved(value: object, field: list[str]) -> object:
    """What a path leads to. Raises :class:`RecordError` that tells the keys where it ended."""
    if not field:
        return value
    if isinstance(value, dict):
        if field[0] in value:
            return _resolved(value[field[0]], field[1:])
        parts = field[0].split(".")
        for length in range(len(parts) - 1, 0, -1):
            if (key := ".".join(parts[:length])) in value:
                return _resolved(value[key], [".".join(parts[length:]), *field[1:]])
    there = f"there are {_keys(value)}" if isinstance(value, dict) else f"it would be in {_kind(value)}"
    raise RecordError(f"has no field '{'.'.join(field)}'; {there}")


def _kind(value: object) -> str:
    return json_kind(value) if isinstance(value, (dict, list)) else shown(value)


def _keys(value: dict[str, Any]) -> str:
    more = f" and {len(value) - _MOST_SHOWN} more" if len(value) > _MOST_SHOWN else ""
    return ", ".join(shown(key) for key in list(value)[:_MOST_SHOWN]) + more
