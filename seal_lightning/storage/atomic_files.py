"""Files that are complete or absent: written to a temporary file beside the target, flushed to the disk, and renamed.

Every write of a run goes through here, and every system call through this module's ``os``, so tests can make each fail.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seal_lightning.core.errors import RunError

_TEMPORARY = ".tmp"
_OURS = re.compile(r"\..+\.\d+\.tmp")
_BUFFER_BYTES = 1 << 20


class ScratchFile(io.RawIOBase):
    """A temporary file that counts and hashes what is written.

    :meth:`sync` raises a failed write, and not before: torch's writer would hide it behind an error of its own.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        """Bytes written so far."""
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self._error: OSError | None = None
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, in hexadecimal digits."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, content: Any) -> int:
        """Write all of the bytes."""
        data = memoryview(content).cast("B")
        self._digest.update(data)
        self.size += len(data)
        self._pending += data  # torch writes a few bytes at a time
        if len(self._pending) >= _BUFFER_BYTES:
            self._write_pending()
        return len(data)

    def sync(self) -> None:
        """Wait until everything is on the disk. Raises the :class:`OSError` of the first write that failed."""
        self._write_pending()
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, bytearray()
        if self._error is None:
            try:
                _write_all(self._descriptor, memoryview(pending))
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """Close the file; once."""
        if not self.closed:
            super().close()
            os.close(self._descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[ScratchFile]:
    """Yield a file that takes ``path``'s place when the block succeeds; otherwise ``path`` stays unchanged.

    Raises :class:`RunError` when the disk refuses.
    """
    scratch = _scratch(path)
    with reporting(path):
        try:
            make_folder(path.parent)
            file = ScratchFile(scratch)
            try:
                yield file
                file.sync()
            finally:
                file.close()
            os.replace(scratch, path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(scratch)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content in one step. Raises :class:`RunError` when the disk refuses."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def placing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block succeeds; an older ``path`` is removed then.

    Raises :class:`RunError` when the disk refuses.
    """
    scratch = _scratch(path)
    with reporting(path):
        try:
            make_folder(scratch)
            yield scratch
            for file in [*scratch.rglob("*"), scratch]:
                sync_folder(file)
            old = path.with_name(f".{path.name}.old.{os.getpid()}{_TEMPORARY}")
            if path.exists():
                os.replace(path, old)
            os.replace(scratch, path)
            shutil.rmtree(old, ignore_errors=True)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def remove(path: Path) -> None:
    """Remove a file, if it exists. Raises :class:`RunError` when the disk refuses."""
    with reporting(path), suppress(FileNotFoundError):
        os.unlink(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of killed processes, in this folder alone."""
    for path in [path for path in folder.glob(f".*{_TEMPORARY}") if _OURS.fullmatch(path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            remove(path)


def append(descriptor: int, content: bytes, end: int) -> None:
    """Write at the end of an open file and flush it; a partial write is cut back to ``end`` bytes."""
    try:
        _write_all(descriptor, memoryview(content))
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, and flush their entries to the disk."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):  # another rank was faster
        os.mkdir(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (or a file's content) to the disk; a rename is safe only then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn an :class:`OSError` into a :class:`RunError` that names the file and the way to resume."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror or error}. Stored results are kept; check the disk's free space "
            "and permissions, then repeat the command (after `seal fit`: `seal fit --resume RUN`)"
        ) from error


@contextmanager
def safetensors_refusals() -> Iterator[None]:
    """Raise an :class:`OSError` for a safetensors file that the disk refuses: the library has an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error


def _scratch(path: Path) -> Path:
    """Return a temporary path in the same folder, so that a rename never crosses file systems."""
    return path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")


def _write_all(descriptor: int, data: memoryview) -> None:
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
