"""Adapted folders taken away again: what ``seal adapt`` wrote and nothing else. No torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.core.errors import RunError, shown
from seal_lightning.storage import atomic_files
from seal_lightning.storage.run_dir import RunLock

LM_EVAL_FILE = re.compile(r"lm_eval(-[0-9]+)?\.json")
"""Whole names of what ``seal lm_eval`` leaves in an adapted folder."""
_GO_ON = "the same `seal adapters remove` command"


def removable(path: str | Path) -> AdaptedFolder:
    """The adapted folder at a path, if it may be removed.

    Raises :class:`RunError` for what is no adapted folder, where it or a part of it is a link, and where another process is
    at it; :class:`ConfigError` for what is no path of a folder.
    """
    folder = AdaptedFolder.named(path)
    if folder.path.is_symlink():
        raise RunError(f"DIR: {shown(str(path))} is a link; nothing was removed. Name the folder that it leads to")
    folder.record()
    with _locked(folder):
        return folder


def parts(folder: AdaptedFolder) -> Iterator[Path]:
    """What is there of what belongs to an adapted folder, in the order of removal: the record last, so that a removal that
    was cut short can be asked for again."""
    for path in (folder.work, folder.merged, folder.adapter):
        if path.is_dir() and not path.is_symlink():
            yield path
    files = sorted(
        p for p in folder.path.iterdir() if LM_EVAL_FILE.fullmatch(p.name) and p.is_file() and not p.is_symlink()
    )
    last = (folder.exam, folder.edits, folder.lock_file, folder.record_file)
    yield from (path for path in (*files, *last) if os.path.lexists(path))


def remove(folder: AdaptedFolder) -> list[Path]:
    """Remove an adapted folder's parts, links within them as links, and the folder itself where it is empty then.

    Returns what is left, to be told: files that were put there by somebody else. Raises :class:`RunError` where the disk
    refuses, when what is gone by then is gone and the same command goes on, and where another process is at the folder.
    """
    with _locked(folder):
        return _removed(folder)


@contextmanager
def _locked(folder: AdaptedFolder) -> Iterator[None]:
    """Inside this block nobody else makes the folder. No lock file is made for it: without one nobody is at it."""
    if not os.path.lexists(folder.lock_file):
        yield
        return
    lock = RunLock(folder.path)
    with atomic_files.going_on_with(_GO_ON):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _removed(folder: AdaptedFolder) -> list[Path]:
    """Remove what is known; returns what is left."""
    atomic_files.remove_leftovers(folder.path)
    for path in list(parts(folder)):
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise RunError(
                f"{path} could not be removed: {error.strerror or error}. What stood before it in "
                f"{shown(str(folder.path))} is gone; see to the rights and give the same command again"
            ) from error
    left = sorted(folder.path.iterdir())
    if not left:
        folder.path.rmdir()
    return left
