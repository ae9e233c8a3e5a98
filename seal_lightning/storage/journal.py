"""Files of records, one JSON line each: journals, appended to line by line, and record files, written as a whole.

A journal's line has a sequence number and a checksum, and is on the disk before it counts:

    {"seq":0,"crc":"5d41402a","record":{...}}

``crc`` is the CRC-32 of the sequence number and the record's bytes. A writer that dies leaves at most a torn last line,
which is cut off when the file is next appended to. Any other damage is an error: no crash leaves it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core.errors import RunError, shown
from seal_lightning.storage import atomic_files

_log = logging.getLogger(__name__)

R = TypeVar("R")

_HEAD = rb'\{"seq":(\d{1,18}),"crc":"([0-9a-f]{8})","record":'
_LINE = re.compile(_HEAD + rb"(.*)\}", re.DOTALL)
_ANOTHER_LINE = re.compile(_HEAD)


class RecordFile(Generic[R]):
    """A JSONL file of one kind of record, written as a whole."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)

    def read(self) -> list[R]:
        """Return all records; none when there is no file. Raises :class:`RunError` that names an invalid line."""
        records = []
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                records.append(self._adapter.validate_json(line))
            except ValidationError as error:
                raise RunError(f"{self.path}, line {number}: not a stored record ({_first_problem(error)})") from error
        return records

    def write(self, records: Iterable[R]) -> None:
        """Replace the file by these records, in one step."""
        atomic_files.write_bytes(self.path, b"".join(self._adapter.dump_json(record) + b"\n" for record in records))


def to_plain(records: Sequence[R], kind: type[R]) -> list[object]:
    """Convert records to plain dicts, lists, strings and numbers."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.dump_python(record, mode="json") for record in records]


def from_plain(items: Sequence[object], kind: type[R]) -> list[R]:
    """Convert back what :func:`to_plain` returned."""
    adapter: TypeAdapter[R] = TypeAdapter(kind)
    return [adapter.validate_python(item) for item in items]


class DamagedLine(RunError):
    """A line of a journal that differs from what was written."""


class Journal(Generic[R]):
    """A journal of one kind of record. One process appends to it; any may read it, at any time.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(Path(folder) / "numbers.jsonl", int)
        ...     stored = [journal.append(1), journal.append(2)]
        ...     journal.close()
        ...     journal.read()
        [1, 2]
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)
        self._descriptor: int | None = None
        self._count = 0
        self._end = 0
        self._unsure = False
        """True while the file may hold more than ``_end`` bytes, because an append was interrupted."""

    def read(self) -> list[R]:
        """Return all records but a torn last line, which a crash left or another process is just writing.

        Raises :class:`DamagedLine` on any other damage. The file stays unchanged: it may be another process's.
        """
        if not self.path.exists():
            return []
        return self._parse(self.path.read_bytes())[0]

    def append(self, record: R) -> R:
        """Add one record; it is on the disk when this returns. Returns it as :meth:`read` will.

        Raises :class:`RunError` when the disk refuses, another process is writing this journal or the record would not
        be read back from JSON, and :class:`DamagedLine`; the record is then not stored, the others are unchanged.
        """
        payload, record = self._payload(record)
        with atomic_files.reporting(self.path):
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            if self._unsure:  # an earlier append failed, and so may have the attempt to cut off its rest
                os.ftruncate(self._descriptor, self._end)
            line = _line(self._count, payload)
            self._unsure = True
            atomic_files.append(self._descriptor, line, self._end)
        self._count, self._end, self._unsure = self._count + 1, self._end + len(line), False
        return record

    def close(self) -> None:
        """Let another process write; the next append opens the file again."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with suppress(OSError):  # no stored record depends on any of this
            if self._unsure:
                os.ftruncate(descriptor, self._end)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would not, while a forked process has it open
        with suppress(OSError):
            os.close(descriptor)

    def repair(self) -> tuple[int, Path | None]:
        """Keep the intact lines, in order and renumbered, and the damaged file under another name.

        Returns the number of lost records, as far as the numbers show, and the path of the old file (None when nothing
        was damaged). Raises :class:`RunError` when the disk refuses or another process is writing this journal.
        """
        self.close()
        with atomic_files.reporting(self.path):
            descriptor = os.open(self.path, os.O_RDWR)
        try:
            self._lock(descriptor)
            content = self.path.read_bytes()
            try:
                self._parse(content)
            except DamagedLine:
                return self._rewrite(content)
            return 0, None
        finally:
            os.close(descriptor)

    def _rewrite(self, content: bytes) -> tuple[int, Path]:
        intact: dict[tuple[int, bytes], None] = {}
        trailing = 0
        for line in content.split(b"\n"):
            try:
                sequence, payload = _parsed(line)
                self._adapter.validate_json(payload)
            except ValueError:
                trailing += len(_ANOTHER_LINE.findall(line)) or bool(line)
            else:
                intact[sequence, payload] = None  # the same line twice counts once
                trailing = 0
        numbers = {sequence for sequence, _ in intact}
        lost = max(numbers, default=-1) + 1 - len(numbers) + trailing
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        atomic_files.write_bytes(aside, content)
        kept = [payload for _, payload in sorted(intact, key=lambda item: item[0])]
        atomic_files.write_bytes(self.path, b"".join(_line(i, payload) for i, payload in enumerate(kept)))
        return lost, aside

    def _open(self) -> None:
        atomic_files.make_folder(self.path.parent)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            self._lock(descriptor)
            if not os.path.samestat(os.fstat(descriptor), self.path.stat()):  # by `repair`, before we had the lock
                raise RunError(f"{self.path} was replaced while it was being opened. Start again")
            records, end = self._parse(self.path.read_bytes())
            if torn := os.fstat(descriptor).st_size - end:
                _log.warning("%s: a torn last line of %d bytes was cut off", self.path, torn)
            os.ftruncate(descriptor, end)
            atomic_files.sync_folder(self.path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._count, self._end, self._unsure = descriptor, len(records), end, False

    def _lock(self, descriptor: int) -> None:
        """Keep a second run from writing the same file, where the file system supports locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise RunError(
                    f"{self.path} is being written by another process. Wait until its run has ended, or stop it"
                ) from error

    def _payload(self, record: R) -> tuple[bytes, R]:
        """Return the record's JSON, and the record as it will be read back."""
        try:
            payload = self._adapter.dump_json(record)
            return payload, self._adapter.validate_json(payload)
        except ValueError as error:
            raise RunError(
                f"{self.path}: a record cannot be stored, because it could not be read back ({shown(error, 300)})"
            ) from error

    def _parse(self, content: bytes) -> tuple[list[R], int]:
        """Return the records, and the number of bytes that they take."""
        records: list[R] = []
        end = 0
        while end < len(content):
            stop = content.find(b"\n", end)
            line = content[end:] if stop < 0 else content[end:stop]
            number = len(records) + 1
            try:
                sequence, payload = _parsed(line)
            except ValueError as error:
                # Only the last line can be torn; where another begins within it, a line end is missing instead.
                if stop + 1 in (0, len(content)) and not _ANOTHER_LINE.search(line, 1):
                    break
                raise self._damaged(number, str(error)) from error
            if sequence != len(records):
                raise self._damaged(
                    number,
                    f"its sequence number is {sequence}, expected {len(records)}: lines are missing or out of order",
                )
            if stop < 0:
                break
            try:
                records.append(self._adapter.validate_json(payload))
            except ValidationError as error:
                raise self._damaged(number, f"it is not a stored record ({_first_problem(error)})") from error
            end = stop + 1
        return records, end

    def _damaged(self, number: int, problem: str) -> DamagedLine:
        return DamagedLine(
            f"{self.path}, line {number}: {problem}. `seal attempts RUN --repair` keeps the intact lines and a copy of the "
            "damaged file; a resume repeats the lost attempts"
        )


def _parsed(line: bytes) -> tuple[int, bytes]:
    """Return a line's sequence number and its record's bytes. Raises :class:`ValueError` with the problem."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is not a line of a journal")
    if _checksum(int(found[1]), found[3]) != found[2]:
        raise ValueError("its checksum is wrong")
    return int(found[1]), found[3]


def _line(sequence: int, payload: bytes) -> bytes:
    return b'{"seq":%d,"crc":"%s","record":%s}\n' % (sequence, _checksum(sequence, payload), payload)


def _checksum(sequence: int, payload: bytes) -> bytes:
    return b"%08x" % zlib.crc32(payload, zlib.crc32(b"%d " % sequence))


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
