"""Records to JSON lines and back, checked by pydantic on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core.errors import RunError
from seal_lightning.storage import atomic_files

R = TypeVar("R")


class RecordFile(Generic[R]):
    """A JSONL file of one kind of record, written as a whole."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)

    def read(self) -> list[R]:
        """All records; none when there is no file. Raises :class:`RunError` that names the line which is no record."""
        if not self.path.exists():
            return []
        return [self._parse(line, number) for number, line in enumerate(self.path.read_bytes().splitlines(), 1)]

    def write(self, records: Iterable[R]) -> None:
        """Replace the file by these records, in one step."""
        atomic_files.write_bytes(self.path, b"".join(self._adapter.dump_json(record) + b"\n" for record in records))

    def _parse(self, line: bytes, number: int) -> R:
        try:
            return self._adapter.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(
                f"{self.path}, line {number}: not a stored record ({'.'.join(map(str, first['loc']))}: {first['msg']})"
            ) from error


def to_plain(records: Sequence[R], kind: type[R]) -> list[object]:
    """Records as plain dicts, lists, strings and numbers."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.dump_python(record, mode="json") for record in records]


def from_plain(items: Sequence[object], kind: type[R]) -> list[R]:
    """The inverse of :func:`to_plain`."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.validate_python(item) for item in items]
