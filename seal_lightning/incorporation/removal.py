"""Adapted folders taken away again: what ``seal adapt`` wrote and nothing else. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from seal_lightning import durable
from seal_lightning.errors import RunError, shown
from seal_lightning.incorporation.folder import AdaptedFolder

LM_EVAL_FILES = "lm_eval*.json"
"""What ``seal lm_eval`` leaves in an adapted folder."""


def removable(path: str | Path) -> AdaptedFolder:
    """The adapted folder at a path, if it may be removed.

    Raises :class:`RunError` for what is no adapted folder, and where it or a part of it is a link; :class:`ConfigError`
    for what is no path of a folder.
    """
    folder = AdaptedFolder.named(path)
    if folder.path.is_symlink():
        raise RunError(f"DIR: {shown(str(path))} is a link; nothing was removed. Name the folder that it leads to")
    folder.record()
    return folder


def parts(folder: AdaptedFolder) -> Iterator[Path]:
    """What is there of what belongs to an adapted folder, in the order of removal: the record last, so that a removal that
    was cut short can be asked for again."""
    for path in (folder.work, folder.merged, folder.adapter):
        if path.is_dir() and not path.is_symlink():
            yield path
    files = sorted(p for p in folder.path.glob(LM_EVAL_FILES) if p.is_file() and not p.is_symlink())
    last = (folder.exam, folder.edits, folder.lock_file, folder.record_file)
    yield from (path for path in (*files, *last) if os.path.lexists(path))


def remove(folder: AdaptedFolder) -> list[Path]:
    """Remove an adapted folder's parts, links within them as links, and the folder itself where it is empty then.

    Returns what is left, to be told: files that were put there by somebody else. Raises :class:`RunError` where the disk
    refuses; what is gone by then is gone, and the same command goes on.
    """
    durable.remove_leftovers(folder.path)
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
