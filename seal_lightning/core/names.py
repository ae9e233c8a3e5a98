"""Checks for names that become parts of paths, and for run directories. A name from data never leads out of a run."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from seal_lightning.core.errors import ConfigError, shown

# ASCII only: such a name is the same under every Unicode normalisation, and as many bytes as characters.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
# One slash is enough: a `Path` of a URL has lost the other.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
MAX_PART_BYTES = 255


def checked_name(name: str, what: str) -> str:
    """Return a name that may be a file's or folder's. Raises :class:`ConfigError` that calls it ``what`` otherwise."""
    # A name may come from outside at run time, whatever its type says.
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what}: {shown(name)} is not allowed; it must be 1 to 100 of the letters a to z and A to Z, digits, `.`, `_` "
            "and `-`, without `.` or `-` at its start, `.` at its end, or `..`"
        )
    return name


def checked_run_dir(path: str | Path, what: str = "--run_dir") -> Path:
    """Return a path at which a run may be stored. Raises :class:`ConfigError` otherwise."""
    text = os.fspath(path)
    if problem := _problem(text):
        raise ConfigError(f"{what}: {shown(text)} is not allowed; {problem}")
    return Path(text)


def is_url(text: str) -> bool:
    """Return whether a text is a URL (or names a file in an archive) instead of a file on a disk."""
    return "://" in text or "::" in text or _URL.match(text) is not None


def _problem(text: str) -> str | None:
    """Return why no run can be stored at a path; None when one can."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "it must be without control characters"
    parts, real = Path(text).parts, os.path.realpath(text)  # a link or `.` may lead to a shared folder
    problems = (
        (not text.strip(), "it is empty: name a folder, for instance runs/seal"),
        (is_url(text), "it is a URL: store the run on a disk and copy it afterwards"),
        (".." in parts, "it must be without `..`: give the path itself"),
        (text.startswith("~"), "only a shell expands `~`: write the home directory out"),
        (
            any(len(part.encode()) > MAX_PART_BYTES for part in parts),
            f"a part of it is longer than {MAX_PART_BYTES} bytes",
        ),
        (real == Path(real).anchor, "it is the root of a file system: name a folder below it"),
        (real == os.path.realpath(os.path.expanduser("~")), "it is the home directory: name a folder below it"),
        (os.path.lexists(text) and not os.path.isdir(text), "it must be a folder, or not exist yet"),
    )
    return next((problem for applies, problem in problems if applies), None)
