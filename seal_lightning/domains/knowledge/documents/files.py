"""The files that paths name: those named themselves, and in folders those that are documents; and their bytes, read safely.

Nothing that could block or never end is opened: no pipe, no device. Links inside a folder are not followed out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.documents.extract import Unreadable
from seal_lightning.domains.knowledge.documents.kinds import OF_PAGES
from seal_lightning.domains.knowledge.records import InvalidRecord

_SPECIAL = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)
_MOST_NAMED = 5
_MOST_ENTRIES = 1_000_000
"""Of all folders together, whatever they are; a disk's root named by mistake has more."""
_ADAPTED = ("adapted.json", os.path.join("work", "job.json"))
"""What tells a folder of ``seal adapt``: its end, and its journals while it is at work or after it was stopped."""


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file to be read."""

    path: Path
    """As it was named, or below the folder as it was named."""
    real: str
    """Without links; by it files are told apart and ordered."""


def named(path: Path) -> str:
    """A path for messages and records: as it is, but its characters escaped where some cannot be printed."""
    text = str(path)
    return text if text.isprintable() else shown(text, 300)


def found_files(
    paths: Sequence[str], max_files: int, leave_out: Sequence[Path] = ()
) -> tuple[list[FoundFile], list[InvalidRecord]]:
    """Every file once, in the order of real paths, whatever the order of ``paths``; and what folders have beside.

    Below the folders that are named, those that ``seal adapt`` wrote are left out, and so is what really is one of
    ``leave_out``; what is named itself is read. Raises :class:`DataError`, naming all, for paths that are not there, cannot
    be read or are no files, and for more than ``max_files`` files.
    """
    found: dict[str, FoundFile] = {}
    beside: list[InvalidRecord] = []
    wrong = {path: problem for path in paths if (problem := _problem(path))}
    if wrong:
        told = "; ".join(f"{named(Path(p))} {problem}" for p, problem in list(wrong.items())[:_MOST_NAMED])
        more = f" (and {len(wrong) - _MOST_NAMED} more)" if len(wrong) > _MOST_NAMED else ""
        raise DataError(
            f"documents: {len(wrong)} of {len(paths)} paths cannot be read: {told}{more}. Working directory "
            f"{named(Path.cwd())}. Nothing was read; correct the paths"
        )
    real_leave_out = frozenset(os.path.realpath(path.expanduser()) for path in leave_out)
    for given in sorted(set(paths)):
        path = Path(given).expanduser()
        for file in _walked(path, beside, real_leave_out) if path.is_dir() else (path,):
            found.setdefault(os.path.realpath(file), FoundFile(path=file, real=os.path.realpath(file)))
            if len(found) > max_files:
                raise DataError(
                    f"documents: {named(path)}: there are more than {max_files} files (max_files). Name fewer folders, or "
                    "allow more"
                )
    unique = {(record.where, record.problem): record for record in beside}
    return [found[real] for real in sorted(found)], [unique[key] for key in sorted(unique)]


def read_file(path: Path, max_bytes: int) -> bytes:
    """A file's bytes. Raises :class:`Unreadable` for one that is too large, is no file any more or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(f"is {_special(status.st_mode)}, no file")
            if status.st_size > max_bytes:
                raise Unreadable(_too_large(f"{status.st_size}", max_bytes))
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise Unreadable(_too_large(f"more than {max_bytes}", max_bytes))
    return content


def _too_large(size: str, max_bytes: int) -> str:
    return f"has {size} bytes; allowed are {max_bytes} (max_file_bytes). Split it"


def _special(mode: int) -> str:
    return next((name for test, name in _SPECIAL if test(mode)), "something else")


def _problem(given: str) -> str:
    """Why a path that was named cannot be read; empty where it can."""
    if not given:
        return "is empty"
    path = Path(given).expanduser()
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
        elif stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        else:
            return f"is {_special(mode)}, neither a file nor a folder"
    except FileNotFoundError:
        return "is not there"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return ""


def _walked(folder: Path, beside: list[InvalidRecord], leave_out: frozenset[str]) -> Iterator[Path]:
    """The documents below a folder, and into ``beside`` what is passed over: hidden entries are counted by folder."""
    root = os.path.realpath(folder)
    waiting, num_entries = [folder], 0
    while waiting:
        below = waiting.pop()
        try:
            entries = sorted(os.scandir(below), key=lambda entry: entry.name)
        except OSError as error:
            beside.append(InvalidRecord(where=named(below), problem=f"cannot be read: {error.strerror or error}"))
            continue
        num_entries += len(entries)
        if num_entries > _MOST_ENTRIES:
            raise DataError(f"documents: {named(folder)} has more than {_MOST_ENTRIES} files and folders. Name fewer")
        if hidden := sum(entry.name.startswith(".") for entry in entries):
            what = f"{hidden} hidden files or folders were left out"
            beside.append(InvalidRecord(where=named(below), problem=what))
        folders = []
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not _is_inside(path, root):
                beside.append(
                    InvalidRecord(where=named(path), problem="is a link that leads out of the folder or nowhere")
                )
            elif entry.is_symlink() and path.is_dir():
                continue  # a folder that is walked at its own place
            elif why := _left_out(path, root, leave_out):
                beside.append(InvalidRecord(where=named(path), problem=why))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif path.suffix.lower() in OF_PAGES:
                what = f"{path.suffix.lower()} is no document; name the file itself to have it read as text"
                beside.append(InvalidRecord(where=named(path), problem=what))
            else:
                yield path
        waiting += reversed(folders)


def _left_out(path: Path, root: str, leave_out: frozenset[str]) -> str:
    """Why something below the root is left out, for itself or for a folder it really is in; empty where it is not."""
    real = os.path.realpath(path)
    parts = os.path.relpath(real, root).split(os.sep)
    # the folders around it were asked when they were walked, but for a link's
    for depth in range(1 if path.is_symlink() else len(parts), len(parts) + 1):
        at = os.path.join(root, *parts[:depth])
        if at in leave_out:
            return "was left out: it is among what is not to be read (leave_out)"
        if mark := next((mark for mark in _ADAPTED if os.path.lexists(os.path.join(at, mark))), ""):
            return f"was left out: `seal adapt` wrote its folder, which holds {mark}; name it itself to have it read"
    return ""


def _is_inside(path: Path, root: str) -> bool:
    """Whether a link leads to something inside the folder that is not hidden."""
    real = os.path.realpath(path)
    return os.path.lexists(real) and real.startswith(os.path.join(root, "")) and "/." not in real[len(root) :]
