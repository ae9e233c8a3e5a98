"""Records to JSON lines and back, checked by pydantic on the way in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seal_lightning.errors import RunError

R = TypeVar("R")


class RecordFile(Generic[R]):
    """A JSONL file of one kind of record. Appends reach the disk before :meth:`append` returns."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)
        self._tail_is_whole = False

    def read(self) -> list[R]:
        """All records but a torn last line, which a crash left or another process is just writing.

        Raises :class:`RunError` on damage elsewhere. The file stays as it is: it may be another rank's.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")  # every whole record ends with a newline
        return [self._parse(line, number) for number, line in enumerate(lines[:-1], 1)]

    def append(self, record: R) -> None:
        """Add one record and wait until it is on the disk; what a crash tore before is cut off first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if not self._tail_is_whole:
                file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
                self._tail_is_whole = True
            file.write(self._adapter.dump_json(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write(self, records: Iterable[R]) -> None:
        """Replace the file by these records, in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".tmp")
        scratch.write_bytes(b"".join(self._adapter.dump_json(record) + b"\n" for record in records))
        scratch.replace(self.path)

    def _parse(self, line: bytes, number: int) -> R:
        try:
            return self._adapter.validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(
                f"{self.path}, line {number}: not a stored record ({'.'.join(map(str, first['loc']))}: {first['msg']}). "
                "Remove the line to go on without it; the attempt is then made again"
            ) from error


def to_plain(records: Sequence[R], kind: type[R]) -> list[object]:
    """Records as plain dicts, lists, strings and numbers."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.dump_python(record, mode="json") for record in records]


def from_plain(items: Sequence[object], kind: type[R]) -> list[R]:
    """The inverse of :func:`to_plain`."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.validate_python(item) for item in items]
