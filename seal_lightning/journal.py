"""An append-only file of records: each line has a sequence number and a checksum, and is on the disk before it counts.

    {"seq":0,"crc":"5d41402a","record":{...}}

``crc`` is the CRC-32 of the sequence number and the record's bytes. A writer that dies leaves at most a torn last line,
which is cut off when the file is next appended to. Damage anywhere else is an error: it is not what a crash leaves.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import zlib
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seal_lightning import durable
from seal_lightning.errors import RunError

R = TypeVar("R")

_LINE = re.compile(rb'\{"seq":(\d{1,18}),"crc":"([0-9a-f]{8})","record":(.*)\}', re.DOTALL)


class DamagedLine(RunError):
    """A line of a journal is not what was written."""


class Journal(Generic[R]):
    """A journal of one kind of record. One process appends to it; any may read it, at any time."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)
        self._descriptor: int | None = None
        self._count = 0
        self._end = 0

    def read(self) -> list[R]:
        """All records but a torn last line, which a crash left or another process is just writing.

        Raises :class:`DamagedLine` on damage elsewhere. The file stays as it is: it may be another process's.
        """
        if not self.path.exists():
            return []
        return self._whole(self.path.read_bytes())[0]

    def append(self, record: R) -> None:
        """Add one record; it is on the disk when this returns.

        Raises :class:`RunError` when the disk refuses or another process is writing this journal, and
        :class:`DamagedLine`; the journal is then as it was before.
        """
        with durable.reporting(self.path):
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            line = _line(self._count, self._adapter.dump_json(record))
            durable.append(self._descriptor, line, self._end)
        self._count += 1
        self._end += len(line)

    def close(self) -> None:
        """Let another process write; the next append opens the file again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def repair(self) -> tuple[int, Path | None]:
        """Keep the lines that are whole, numbered anew, and the file as it was under another name.

        Returns how many lines were left out, and where the old file is (None when nothing was damaged).
        """
        content = self.path.read_bytes()
        kept, lost = [], 0
        for number, line in enumerate(content.split(b"\n"), 1):
            try:
                record = self._record(line, None, number) if line else None
            except DamagedLine:
                lost += 1
                continue
            if record is not None:
                kept.append(self._adapter.dump_json(record))
        if not lost:
            return 0, None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        durable.write_bytes(aside, content)
        durable.write_bytes(self.path, b"".join(_line(i, record) for i, record in enumerate(kept)))
        return lost, aside

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock(descriptor)
            records, end = self._whole(self.path.read_bytes())
            os.ftruncate(descriptor, end)
            durable.sync_folder(self.path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._count, self._end = descriptor, len(records), end

    def _lock(self, descriptor: int) -> None:
        """Keep a second run from writing the same file, where the file system can lock."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise RunError(
                    f"{self.path} is being written by another process: is this run still going on? Nothing was changed"
                ) from error

    def _whole(self, content: bytes) -> tuple[list[R], int]:
        """The records, and the length of what they take; a damaged last line is a torn one."""
        records: list[R] = []
        end = 0
        while end < len(content):
            stop = content.find(b"\n", end)
            last = stop < 0 or stop + 1 == len(content)
            try:
                if stop < 0:
                    break
                records.append(self._record(content[end:stop], len(records), len(records) + 1))
            except DamagedLine:
                if last:
                    break
                raise
            end = stop + 1
        return records, end

    def _record(self, line: bytes, expected: int | None, number: int) -> R:
        """A line's record; ``expected`` is its sequence number, None takes any."""
        found = _LINE.fullmatch(line)
        if found is None:
            raise self._damaged(number, "it is not a line of a journal")
        sequence, checksum, payload = int(found[1]), found[2], found[3]
        if _checksum(sequence, payload) != checksum:
            raise self._damaged(number, "its checksum is wrong")
        if expected is not None and sequence != expected:
            raise self._damaged(number, f"its sequence number is {sequence}, expected {expected}: lines are missing")
        try:
            return self._adapter.validate_json(payload)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise self._damaged(number, f"it is not a stored record ({problem})") from error

    def _damaged(self, number: int, problem: str) -> DamagedLine:
        return DamagedLine(
            f"{self.path}, line {number}: {problem}. Nothing was changed. `seal attempts RUN --repair` keeps the whole lines "
            "and sets the damaged file aside; what is lost is then made again"
        )


def _line(sequence: int, payload: bytes) -> bytes:
    return b'{"seq":%d,"crc":"%s","record":%s}\n' % (sequence, _checksum(sequence, payload), payload)


def _checksum(sequence: int, payload: bytes) -> bytes:
    return b"%08x" % zlib.crc32(payload, zlib.crc32(b"%d " % sequence))
