"""Document files: those named themselves and those below named folders, and their bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.json_records import InvalidRecord
from seal_lightning.domains.knowledge.documents.decoding import Unreadable

_MOST_NAMED = 5
_PARTS_OF_PAGES = frozenset({".css", ".js", ".mjs", ".map", ".svg", ".rss", ".atom"})
"""Suffixes of files beside a saved page: skipped in folders, read as text where named themselves."""
_ADAPTED = ("adapted.json", os.path.join("work", "job.json"))
"""Marks of a folder written by ``seal adapt``: of its result, and of its journals."""


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file to be read."""

    path: Path
    """As given, or below the folder as given."""
    real: str
    """Without links; files are identified and ordered by it."""


def printable(path: Path) -> str:
    """Return a path for messages and records, escaped where it cannot be printed."""
    text = str(path)
    return text if text.isprintable() else shown(text, 300)


def find_files(
    paths: Sequence[str], max_files: int, leave_out: Sequence[Path] = ()
) -> tuple[list[FoundFile], list[InvalidRecord]]:
    """Return every file once, in the order of real paths whatever the order of ``paths``, and the skipped entries.

    Below named folders, skipped are hidden entries, links that lead out, folders written by ``seal adapt`` and whatever
    is or lies in one of ``leave_out``.

    Raises:
        DataError: paths are missing or unreadable (all are listed), or there are more than ``max_files`` files.

    """
    expanded = {given: os.path.expanduser(given) for given in sorted(set(paths))}
    wrong = [given for given, path in expanded.items() if not _is_readable(path)]
    if wrong:
        listed = ", ".join(shown(path, 300) for path in wrong[:_MOST_NAMED])
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise DataError(
            f"documents: {len(wrong)} of {len(paths)} paths are not readable files or folders: {listed}{more} (working "
            f"directory {printable(Path.cwd())}). Nothing was read; correct the paths"
        )
    excluded = [os.path.realpath(path.expanduser()) for path in leave_out]
    found: dict[str, FoundFile] = {}
    skipped: dict[tuple[str, str], InvalidRecord] = {}
    for path in expanded.values():
        for file, problem in _walk(path, excluded) if os.path.isdir(path) else [(path, "")]:
            if problem:
                record = InvalidRecord(where=printable(Path(file)), problem=problem)
                skipped[record.where, problem] = record
            else:
                real = os.path.realpath(file)
                found.setdefault(real, FoundFile(path=Path(file), real=real))
        if len(found) > max_files:
            raise DataError(f"documents: there are more than {max_files} files (max_files). Name fewer, or allow more")
    return [found[real] for real in sorted(found)], [skipped[key] for key in sorted(skipped)]


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes. Raises :class:`Unreadable` for one that is too large or unreadable."""
    if not path.is_file():  # opening a pipe would block
        raise Unreadable("is a pipe, socket or device, not a file")
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise Unreadable(f"has more than {max_bytes} bytes (max_file_bytes). Split it")
    return content


def _is_readable(path: str) -> bool:
    return (os.path.isfile(path) or os.path.isdir(path)) and os.access(path, os.R_OK)


def _walk(folder: str, excluded: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the entries below a folder, each with the reason for skipping it, empty for a file to be read."""
    root = os.path.realpath(folder)
    unreadable: list[OSError] = []
    for at, folders, files in os.walk(folder, onerror=unreadable.append):
        if hidden := [name for name in (*folders, *files) if name.startswith(".")]:
            yield at, f"{len(hidden)} hidden files or folders were skipped"
        folders[:] = sorted(set(folders) - {*hidden})
        for name in (*folders, *sorted(set(files) - {*hidden})):
            path = os.path.join(at, name)
            reason = _skip_reason(path, root, excluded)
            if name in folders:
                # links to folders are not followed: the folder has its own place
                if reason:
                    folders.remove(name)
                    yield path, reason
            else:
                yield path, reason
    for error in unreadable:
        yield str(error.filename), f"cannot be read: {error.strerror}"


def _skip_reason(path: str, root: str, excluded: Sequence[str]) -> str:
    real = os.path.realpath(path)
    if os.path.islink(path) and (not os.path.exists(real) or not real.startswith(os.path.join(root, ""))):
        return "is a link that leads out of the folder or nowhere"
    if "/." in real[len(root) :]:
        return "is a link to a hidden file"
    if any(real == one or real.startswith(one + os.sep) for one in excluded):
        return "was skipped as one of the paths to leave out (leave_out)"
    for part in (Path(real), *Path(real).parents) if os.path.islink(path) or os.path.isdir(path) else ():
        if str(part) == root:
            break
        if mark := next((mark for mark in _ADAPTED if os.path.lexists(part / mark)), ""):
            return f"was skipped: `seal adapt` wrote its folder, which holds {mark}. Name the folder itself to read it"
    suffix = os.path.splitext(path)[1].lower()
    return f"{suffix} is not a document; name the file itself to read it as text" if suffix in _PARTS_OF_PAGES else ""
