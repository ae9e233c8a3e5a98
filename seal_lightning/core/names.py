"""Names that become parts of paths, and where a run may lie. What a file, an edit or an answer says never gets out."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from seal_lightning.core.errors import ConfigError, shown

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
"""ASCII only: such a name is the same under every Unicode normalisation, and as many bytes as characters."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""One slash is enough: a :class:`Path` of a URL has lost the other."""
_DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CONIN$",
    "CONOUT$",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}
MAX_PART_BYTES = 255


def checked_name(name: str, what: str) -> str:
    """The name, if it may be a file's or folder's. Raises :class:`ConfigError` that calls it ``what``."""
    # A name may come from outside at run time, whatever its type says.
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or _is_device(name):
        raise ConfigError(
            f"{what}: {shown(name)} is not allowed; it must be 1 to 100 of the letters a to z and A to Z, digits, `.`, `_` "
            "and `-`, without `.` or `-` at its start, `.` at its end, `..`, and names of Windows devices (CON, NUL, COM1 …)"
        )
    return name


def checked_run_dir(path: str | Path, what: str = "--run_dir") -> Path:
    """The path, if a run may be kept there: anywhere, but in a folder of its own. Raises :class:`ConfigError`."""
    text = os.fspath(path)
    if problem := _problem(text):
        raise ConfigError(f"{what}: {shown(text)} is not allowed; {problem}")
    return Path(text)


def is_url(text: str) -> bool:
    """Whether it names something on a network (or in an archive) and no file on a disk."""
    return "://" in text or "::" in text or _URL.match(text) is not None


def _problem(text: str) -> str | None:
    """Why no run is kept there; None when one may be."""
    parts = Path(text).parts
    if not text.strip():
        return "it is empty: name a folder, for instance runs/seal"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "it must be text without control characters"
    if is_url(text):
        return "it is a URL: a run is kept on a disk. Copy it to its place afterwards"
    if ".." in parts:
        return "it must be without `..`: give the path itself"
    if parts and parts[0].startswith("~"):
        return "only a shell knows `~`: write the home directory out"
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"a part of it is longer than {MAX_PART_BYTES} bytes"
    if parts and _is_device(parts[-1]):
        return "its last part is the name of a Windows device (CON, NUL, COM1 …)"
    if os.path.lexists(text) and not os.path.isdir(text):
        return "it must be a folder, or not there yet"
    return _taken(os.path.realpath(text))


def _taken(real: str) -> str | None:
    """Folders that are for more than one run, by their real path: a link or `.` may lead there too."""
    if real == Path(real).anchor:
        return "it is the root of a file system: name a folder below it"
    if real == os.path.realpath(os.path.expanduser("~")):
        return "it is the home directory: name a folder below it"
    return None


def _is_device(part: str) -> bool:
    """Whether Windows takes it for a device, also with an extension and with superscript digits."""
    return unicodedata.normalize("NFKC", part).split(".", 1)[0].strip().upper() in _DEVICES
