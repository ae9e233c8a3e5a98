"""The catalogue of checkpoints: a file counts only with a manifest beside it that has its size and SHA-256.

``NAME.ckpt.json`` is written before ``NAME.ckpt`` is renamed into place, and lists the old content too while one is
replaced. So at every instant the file is either complete and listed, or not a checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seal_lightning.core.errors import RunError
from seal_lightning.storage import atomic_files

_log = logging.getLogger(__name__)

PHASES = "round*-[em]_step*.ckpt"
"""The names of a run's own checkpoints; a user's callback may keep others in the same folder."""


class Content(BaseModel):
    """One content that a checkpoint file may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0)
    """Counts a folder's checkpoints: the highest is the newest, whatever the clock says."""
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    saved: str
    """Time in UTC, ISO 8601."""


class Manifest(BaseModel):
    """The contents that a checkpoint file may have, the newest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contents: tuple[Content, ...] = Field(min_length=1)


def manifest_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's manifest."""
    return checkpoint.with_name(f"{checkpoint.name}.json")


def write_manifest(checkpoint: Path, num_bytes: int, sha256: str) -> None:
    """List the content that the checkpoint is about to have; its present content stays valid until it is replaced."""
    numbers = [content.number for path in checkpoint.parent.glob("*.ckpt") if (content := _content(path))]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = Content(number=max(numbers, default=-1) + 1, bytes=num_bytes, sha256=sha256, saved=now)
    old = _content(checkpoint) if checkpoint.exists() else None
    manifest = Manifest(contents=(new, old) if old is not None else (new,))
    atomic_files.write_bytes(manifest_path(checkpoint), manifest.model_dump_json(indent=1).encode())


def complete_checkpoints(folder: Path, names: str = "*.ckpt") -> list[Path]:
    """Return the folder's checkpoints of such names whose size is the manifest's, the newest last."""
    found = [(content.number, path) for path in folder.glob(names) if (content := _content(path)) is not None]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path, names: str = "*.ckpt") -> Path | None:
    """Return the newest checkpoint whose content is intact; damaged ones are skipped with a warning.

    Raises :class:`RunError` when there are checkpoints and none is intact: a fresh start would pass for a resume.
    """
    for path in reversed(complete_checkpoints(folder, names)):
        try:
            with path.open("rb") as file:
                check_content(path, file)
        except (RunError, OSError) as error:
            _log.warning("%s; trying the checkpoint before it", error)
        else:
            return path
    if any(folder.glob(names)):
        raise RunError(
            f"no checkpoint in {folder} is intact: each is damaged or has no manifest. Restore one with its manifest, or "
            "remove them all to repeat the run's M-steps (stored attempts are kept)"
        )
    return None


def check_content(path: Path, file: BufferedReader) -> None:
    """Compare an open checkpoint with its manifest. Raises :class:`RunError` when they differ."""
    manifest = _manifest(path)
    if manifest is None:
        raise RunError(
            f"{path} has no valid manifest ({manifest_path(path).name}): its write was interrupted, or another program "
            "wrote it"
        )
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in {content.sha256 for content in manifest.contents}:
        raise RunError(f"{path} is damaged: its SHA-256 is {digest}, the manifest says {manifest.contents[0].sha256}")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its manifest."""
    atomic_files.remove(path)  # first: a manifest alone is not a checkpoint
    atomic_files.remove(manifest_path(path))


def remove_incomplete(folder: Path) -> None:
    """Remove manifests of checkpoints that were never put in place."""
    for manifest in folder.glob("*.ckpt.json"):
        if not manifest.with_suffix("").exists():
            atomic_files.remove(manifest)


def _content(checkpoint: Path) -> Content | None:
    """Return the file's content by its manifest; None when it has none or another size."""
    manifest = _manifest(checkpoint)
    try:
        size = checkpoint.stat().st_size
    except OSError:
        return None
    fitting = [content for content in manifest.contents if content.bytes == size] if manifest is not None else []
    if len(fitting) > 1:  # a replacement is under way, and the sizes are equal
        with checkpoint.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        fitting = [content for content in fitting if content.sha256 == digest]
    return fitting[0] if fitting else None


def _manifest(checkpoint: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(manifest_path(checkpoint).read_bytes())
    except (OSError, ValidationError):
        return None
