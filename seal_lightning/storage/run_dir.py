"""The folder of a run and the lock on it. Results in it are never overwritten, and no link leads out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.names import checked_name, checked_run_dir
from seal_lightning.storage.atomic_files import make_folder, remove_leftovers, reporting, write_bytes
from seal_lightning.storage.checkpoints import PHASES, newest_checkpoint, remove_incomplete

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_PARTS = ("config*.yaml", "round_*", "search", "sweep", "checkpoints", "results", "tensorboard", ".*.tmp")
"""The run's own files and folders; a run directory may hold others too."""


@dataclass(frozen=True)
class RunDir:
    """``config.yaml``, ``round_0/``, ``round_1/`` …, ``checkpoints/``, ``results/``, ``tensorboard/``."""

    path: Path

    @classmethod
    def of(cls, trainer: Trainer) -> RunDir:
        """Return the trainer's run: its ``default_root_dir``."""
        return cls(Path(trainer.default_root_dir))

    @classmethod
    def named(cls, path: str | Path, what: str = "--run_dir") -> RunDir:
        """Return the run at a path that a user gave. Raises :class:`ConfigError` or :class:`RunError` where none may be."""
        run = cls(checked_run_dir(path, what))
        run.check_contents()
        return run

    @property
    def config(self) -> Path:
        """The whole configuration: ``config.yaml``, or the newest of ``config-2.yaml`` … left by resumes with changes."""
        return self._configs()[-1] if self._configs() else self.path / "config.yaml"

    @property
    def next_config(self) -> Path:
        """The path for the configuration of a resume with changed settings."""
        return self.path / f"config-{len(self._configs()) + 1}.yaml"

    @property
    def holds_a_run(self) -> bool:
        """True once a phase has begun; a start that failed before that leaves the folder free."""
        return self.checkpoints.exists() or any(self.path.glob("round_*"))

    def _configs(self) -> list[Path]:
        numbered = sorted(self.path.glob("config-*.yaml"), key=lambda p: (len(p.name), p.name))
        return [p for p in (self.path / "config.yaml",) if p.exists()] + numbered

    @property
    def checkpoints(self) -> Path:
        """The folder of Lightning checkpoints."""
        return self._own("checkpoints")

    def round(self, index: int) -> Path:
        """Return the folder of one round, counted from 0: attempts, accepted edits and the policy."""
        return self._own(checked_name(f"round_{index}", "the folder of a round"))

    @property
    def search(self) -> Path:
        """The folder of ``seal search``'s attempts."""
        return self._own("search")

    @property
    def sweep(self) -> Path:
        """The folder of ``seal sweep``'s attempts."""
        return self._own("sweep")

    def latest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint, if there is one."""
        return newest_checkpoint(self.checkpoints, PHASES)

    def tidy(self) -> None:
        """Remove temporary files of processes that were killed."""
        for path in (self.path, *self._parts()):
            if path.is_dir():
                remove_leftovers(path)
        remove_incomplete(self.checkpoints)

    def settings(self) -> dict[str, Any]:
        """Return :attr:`config` as plain values. Raises :class:`RunError` when it is not a configuration."""
        return read_settings(self.config)

    def write_result(self, name: str, content: object) -> Path:
        """Write ``results/{name}.json`` and return the path; see :meth:`write_text_result`."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        return self.write_text_result(name, "json", text)

    def write_text_result(self, name: str, suffix: str, text: str) -> Path:
        """Write ``results/{name}.{suffix}``, or ``{name}-2.{suffix}`` and so on where that exists; returns the path.

        Raises :class:`ConfigError` for an invalid name or suffix.
        """
        # A lone surrogate cannot be encoded; as an escape it is the same string to JSON.
        return self.write_bytes_result(name, suffix, text.encode(errors="backslashreplace"))

    def write_bytes_result(self, name: str, suffix: str, content: bytes, folder: str | None = None) -> Path:
        """As :meth:`write_text_result`; with ``folder`` in ``results/{folder}/``."""
        checked_name(name, "the name of a result")
        checked_name(suffix, "the ending of a result")
        results = self._own("results")
        if folder is not None:
            results = self._own(f"results/{checked_name(folder, 'the folder of a result')}")
        number = 1
        while os.path.lexists(path := results / f"{name}{f'-{number}' if number > 1 else ''}.{suffix}"):
            number += 1
        write_bytes(path, content)
        return path

    def check_writable(self) -> None:
        """Raise :class:`RunError` when the folder cannot be created or written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"the run directory {self.path} cannot be written ({error.strerror}). Choose another with --run_dir"
            ) from error

    def check_contents(self) -> None:
        """Raise :class:`RunError` when a part of the run is a link that leads out of it, or a pipe or device."""
        for path in self._parts():
            self._check_inside(path)
            if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe would block for ever
                raise RunError(f"{path} is neither a file nor a folder; remove it")

    def _parts(self) -> Iterator[Path]:
        """Everything of the run, links not followed."""
        folders = [path for pattern in _PARTS for path in self.path.glob(pattern)]
        while folders:
            path = folders.pop()
            yield path
            try:
                if path.is_dir() and not path.is_symlink():
                    folders += path.iterdir()
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error.strerror or error}. Fix its permissions") from error

    def _own(self, name: str) -> Path:
        """Return a folder of the run. Raises :class:`RunError` when it is a link that leads out of it."""
        path = self.path / name
        self._check_inside(path)
        return path

    def _check_inside(self, path: Path) -> None:
        if path.is_symlink() and not _real(path).is_relative_to(_real(self.path)):
            raise RunError(
                f"{path} is a link to {shown(os.readlink(path))}, outside the run directory. Move its target here, or choose "
                "another directory for the whole run with --run_dir"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping as plain values. Raises :class:`RunError` when it is not a configuration."""
    try:
        settings = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # nosec B506
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise RunError(f"{path} is not a configuration of plain values ({reason})") from error
    if not isinstance(settings, dict):
        raise RunError(f"{path} is not a configuration: it is a {type(settings).__name__}, expected a mapping")
    return settings


class RunLock:
    """A lock on ``.lock`` of a run directory, held by the first rank for a whole fit; the system frees it at a crash.

    A second process group would take the first one's files for leftovers.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._lock = FileLock(self.path, thread_local=False)

    def acquire(self) -> None:
        """Take the lock. Raises :class:`RunError` when another process holds it."""
        with reporting(self.path):
            make_folder(self.path.parent)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise RunError(
                    f"{self.path.parent} is locked by another process. Wait until it has ended, or stop it with SIGTERM"
                ) from error

    def release(self) -> None:
        """Free the lock; once is enough."""
        self._lock.release(force=True)
