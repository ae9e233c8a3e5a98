"""Self-edits of another writer from a file: another model's, another run's, the paper's release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from seal_lightning.core import JSON, SamplingSpec, SelfEdit, Task
from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.domains.json_records import (
    Record,
    RecordError,
    SquadTitle,
    Text,
    json_kind,
    parse_json,
    parse_lines,
    read_bytes,
    validated,
)
from seal_lightning.domains.knowledge.domain import KnowledgeDomain
from seal_lightning.domains.knowledge.passage import Passage, passage_id
from seal_lightning.domains.knowledge.splitting import SplitName, readable


@dataclass(frozen=True, kw_only=True)
class FoundEdits:
    """The self-edits of one record, and the keys of their task."""

    where: str
    """The record's position in its file: records count from 0, lines from 1."""
    called: str
    """The record's title, task id or key, for messages."""
    task_ids: tuple[str, ...]
    titles: tuple[str, ...]
    """Possible titles of the task, where the record has nothing but a title."""
    texts: tuple[str, ...]
    edit_index: int | None = None
    """Of a record with one edit that has an index."""


class _Names(Record):
    task_id: Text | None = None
    title: Text | None = None
    context: Text | None = None
    edit_index: Annotated[int, Field(ge=0)] | None = None


class _SquadName(Record):
    title: SquadTitle


class EditFile(Writer):
    """Reads self-edits from a JSON or JSON Lines file and gives each task its first edits.

    Without ``field`` it reads the output of ``seal predict`` (``self_edits.jsonl``), a run's ``attempts.rank*.jsonl`` and
    ``accepted.jsonl``, and records with ``completions``: a list, or an object of lists by writer, as in the SEAL release.
    The file holds a list of records, an object of records by task id or title, or lines. A record belongs to the task of
    its ``task_id`` or of its title and context; with a title only, to the only task of that title. The edits of a task
    are in the order of their ``edit_index``, or else of the file; repeated attempts at an edit are one edit.

    Args:
        path: The file.
        field: The path to a record's edits, a text or a list of texts: keys joined by dots, which may have dots themselves
            (``completions.gpt-4.1``), or a list of keys.
        writer: The writer to take, where a record has the edits of several writers by name.
        split: How an edit becomes sequences: by the run's format (``format``), by ``lines``, by ``blocks`` between lines of
            dashes, or not at all (``whole``), as in the paper's continued pretraining.
        allow_missing: Give a task without an edit in the file an empty one, which is malformed and counted, instead of
            raising an error.

    Raises:
        ConfigError: A setting is out of bounds.

    Example:
        >>> _ = Path("edits.jsonl").write_text('{"task_id": "bridge", "text": "It has nine arches."}')
        >>> writer = EditFile("edits.jsonl")
        >>> writer.write([Task(task_id="bridge")], 1, {})[0].text
        'It has nine arches.'

    """

    def __init__(
        self,
        path: str | Path,
        field: str | list[str] | None = None,
        writer: str | None = None,
        split: SplitName = "format",
        allow_missing: bool = False,
    ) -> None:
        if split not in get_args(SplitName):
            raise ConfigError(f"EditFile: split is {shown(split)}; allowed are {', '.join(get_args(SplitName))}")
        keys = [field] if isinstance(field, str) else list(field or ())
        if field is not None and not (keys and all(keys)):
            raise ConfigError(f"EditFile: field is {shown(field)}; allowed are keys, none of them empty, or null")
        self.path = Path(path).expanduser()
        self.field = keys
        self.writer = writer
        self.split = split
        self.allow_missing = allow_missing
        self._records: list[FoundEdits] = []
        self._by_task: dict[str, dict[int, str]] = {}
        self._by_title: dict[str, dict[int, str]] = {}
        self._owners: dict[str, str] = {}

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Read the file before anything is computed.

        Raises :class:`DataError`, and :class:`ConfigError` for a domain without ``split``.
        """
        if self.split != "format" and not isinstance(domain, KnowledgeDomain):
            raise ConfigError(f"EditFile: split is {self.split!r}; allowed with {type(domain).__name__} is 'format'")
        self._read()

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:
        """Look up every task's edits. Raises :class:`DataError` as :meth:`write` does."""
        self.write(tasks, num_edits, {})

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """Return ``num_edits`` edits per task, task by task; ``seeds`` are ignored.

        Raises :class:`DataError` when the file has no edits of a task (unless allowed), or fewer.
        """
        self._read()
        found = [self._edits_of(task) for task in tasks]
        for task, texts in zip(tasks, found, strict=True):
            if texts is None and not self.allow_missing:
                first = shown(self._records[0].called)
                remedy = (
                    f"Its {len(self._records)} records begin with {first}. Give a file on these tasks, whose records "
                )
                remedy += "have 'task_id', or 'title' and 'context', or set allow_missing"
                raise self._too_few(task, "no edit", remedy)
            if texts is not None and len(texts) < num_edits:
                raise self._too_few(task, f"only {len(texts)} of {num_edits} edits", "Lower model.test_edits")
        directives: dict[str, JSON] = {} if self.split == "format" else {"split": self.split}
        return [
            SelfEdit(task_id=task.task_id, edit_index=index, text=text, directives=dict(directives))
            for task, texts in zip(tasks, found, strict=True)
            for index, text in enumerate([""] * num_edits if texts is None else texts[:num_edits])
        ]

    def _too_few(self, task: Task, there: str, remedy: str) -> DataError:
        name = f"{shown(task.title)} " if isinstance(task, Passage) else ""
        return DataError(f"{self.path}: has {there} of the task {name}(task id {task.task_id}). {remedy}")

    def _read(self) -> None:
        for record in () if self._records else read_edits(self.path, self.field, self.writer):
            self._records.append(record)
            for task_id in record.task_ids:
                self._add(self._by_task.setdefault(task_id, {}), record)
            for title in record.titles:
                self._add(self._by_title.setdefault(title, {}), record)

    def _add(self, edits: dict[int, str], record: FoundEdits) -> None:
        for text in record.texts:
            index = len(edits) if record.edit_index is None else record.edit_index
            if edits.setdefault(index, text) != text:
                raise DataError(
                    f"{self.path}: {record.where}: the file has another edit {index} of the same task. "
                    "Give a file of one round, or number the edits"
                )

    def _edits_of(self, task: Task) -> list[str] | None:
        """Return the task's edits in order; None if the file does not have the task."""
        edits = self._by_task.get(task.task_id)
        if edits is None and isinstance(task, Passage) and task.title in self._by_title:
            edits = self._by_title[task.title]
            owner = self._owners.setdefault(task.title, task.task_id)
            if owner != task.task_id:
                raise DataError(
                    f"{self.path}: has edits for the title {shown(task.title)}, which two tasks have: {owner} and "
                    f"{task.task_id}. Give its records 'task_id' or 'context'"
                )
        return None if edits is None else [readable(edits[index]) for index in sorted(edits)]


def read_edits(path: Path, field: Sequence[str], writer: str | None) -> list[FoundEdits]:
    """Return the self-edits of a JSON or JSON Lines file, record by record.

    Args:
        path: of the file.
        field: the path to a record's edits, key by key; a part that is not a key is split at its dots, preferring the
            longest existing keys. Empty: ``text``, ``completions``, or the ``text`` of ``edit``.
        writer: the key of the edits in an object of edits by writer.

    Raises:
        DataError: the file is empty, or a record has no edits there; the first such record is named.

    """
    found = []
    where = "the file"
    try:
        for where, key, value in _records(path):
            if isinstance(value, RecordError):
                raise value
            found.append(_found(where, key, value, field, writer))
    except RecordError as error:
        raise DataError(f"{path}: {where}: {error}") from error
    if not found:
        raise DataError(f"{path}: the file has no record")
    return found


def _records(path: Path) -> Iterator[tuple[str, str | None, object]]:
    """Yield each record's position, its key in an object of records, and its value."""
    content = read_bytes(path)
    try:
        value = None if path.suffix.lower() in (".jsonl", ".ndjson") else parse_json(content)
    except RecordError:
        if not content.lstrip().split(b"\n", 1)[0].rstrip().endswith(b"}"):  # lines under another suffix
            raise
        value = None
    if value is None:
        yield from ((f"line {number}", None, item) for number, item in parse_lines(content))
    elif isinstance(value, list):
        yield from ((f"record {index}", None, item) for index, item in enumerate(value))
    elif not isinstance(value, dict):
        raise RecordError(f"must hold a list of records or an object of them; it is {json_kind(value)}")
    elif "record" in value or any(isinstance(value.get(key), str) for key in ("task_id", "title", "context")):
        yield "record 0", None, value
    else:
        yield from ((f"key {shown(key)}", key, item) for key, item in value.items())


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
        raise RecordError("must have 'task_id', or 'title' and 'context'")
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
            f"has no self-edit in 'text', 'completions' or 'edit', but {_keys(record)}. Name it with `field`"
        )
    value = _resolved(record, list(field)) if field else record[name]
    if isinstance(value, dict) and writer not in value:
        raise RecordError(f"field '{name}' has the edits of several writers; set `writer` to one of {_keys(value)}")
    if isinstance(value, dict):
        value = value[str(writer)]
    elif writer is not None:
        raise RecordError(f"field '{name}' does not have the edits of several writers; omit `writer`")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RecordError(f"field '{name}' must be a text or a list of texts; it is {json_kind(value)}")
    return tuple(texts)


def _resolved(value: object, field: list[str]) -> object:
    """Return the value at a path of keys. Raises :class:`RecordError` with the keys where the path ends."""
    if not field:
        return value
    if isinstance(value, dict):
        if field[0] in value:
            return _resolved(value[field[0]], field[1:])
        parts = field[0].split(".")
        for length in range(len(parts) - 1, 0, -1):
            if (key := ".".join(parts[:length])) in value:
                return _resolved(value[key], [".".join(parts[length:]), *field[1:]])
    there = _keys(value) if isinstance(value, dict) else json_kind(value)
    raise RecordError(f"has no field '{'.'.join(field)}', but {there}")


def _keys(value: dict[str, Any]) -> str:
    return shown(", ".join(map(str, value)), 300)
