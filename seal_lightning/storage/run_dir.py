"""The folder of a run: where everything of it lies. Results in it are never overwritten, and nothing leads out of it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.names import checked_name, checked_run_dir
from seal_lightning.storage.atomic_files import remove_leftovers, write_bytes
from seal_lightning.storage.checkpoints import PHASES, newest_checkpoint, remove_incomplete
from seal_lightning.storage.config_file import read_settings

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

_PARTS = ("config*.yaml", "round_*", "search", "sweep", "checkpoints", "results", "tensorboard", ".*.tmp")
"""What of the folder is the run's; a folder may hold other things too."""


@dataclass(frozen=True)
class RunDir:
    """``config.yaml``, ``round_0/``, ``round_1/`` …, ``checkpoints/``, ``results/``, ``tensorboard/``."""

    path: Path

    @classmethod
    def of(cls, trainer: Trainer) -> RunDir:
        """The trainer's run: its ``default_root_dir``."""
        return cls(Path(trainer.default_root_dir))

    @classmethod
    def named(cls, path: str | Path, what: str = "--run_dir") -> RunDir:
        """The run at a path a user named. Raises :class:`ConfigError` or :class:`RunError` unless one may be there."""
        run = cls(checked_run_dir(path, what))
        run.check_contents()
        return run

    @property
    def config(self) -> Path:
        """The whole configuration: ``config.yaml``, or the newest of ``config-2.yaml`` … that resumes with changes left."""
        return self._configs()[-1] if self._configs() else self.path / "config.yaml"

    @property
    def next_config(self) -> Path:
        """Where a resume with changed settings keeps them."""
        return self.path / f"config-{len(self._configs()) + 1}.yaml"

    @property
    def holds_a_run(self) -> bool:
        """Whether anything was tried here; a start that failed before that leaves the folder free."""
        return self.checkpoints.exists() or any(self.path.glob("round_*"))

    def _configs(self) -> list[Path]:
        numbered = sorted(self.path.glob("config-*.yaml"), key=lambda p: (len(p.name), p.name))
        return [p for p in (self.path / "config.yaml",) if p.exists()] + numbered

    @property
    def checkpoints(self) -> Path:
        """Lightning checkpoints."""
        return self._own("checkpoints")

    def round(self, index: int) -> Path:
        """Attempts, accepted edits and the policy of one round, counted from 0."""
        return self._own(checked_name(f"round_{index}", "the folder of a round"))

    @property
    def search(self) -> Path:
        """Attempts of ``seal search``."""
        return self._own("search")

    @property
    def sweep(self) -> Path:
        """Attempts of ``seal sweep``."""
        return self._own("sweep")

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, if there is one."""
        return newest_checkpoint(self.checkpoints, PHASES)

    def tidy(self) -> None:
        """Remove what a process that was killed had not finished writing."""
        for path in (self.path, *self._parts()):
            if path.is_dir():
                remove_leftovers(path)
        remove_incomplete(self.checkpoints)

    def settings(self) -> dict[str, Any]:
        """What :attr:`config` says, as plain values. Raises :class:`RunError` when it is no configuration."""
        return read_settings(self.config)

    def write_result(self, name: str, content: object) -> Path:
        """Write ``results/{name}.json`` and return the path; see :meth:`write_text_result`."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        return self.write_text_result(name, "json", text)

    def write_text_result(self, name: str, suffix: str, text: str) -> Path:
        """Write ``results/{name}.{suffix}``, or ``{name}-2.{suffix}`` and so on where that exists; returns the path.

        Raises :class:`ConfigError` when these are no names.
        """
        # A surrogate on its own is no text; as an escape it is the same string to JSON.
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
        """Raise :class:`RunError` when the folder cannot be made or written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"the run directory {self.path} cannot be written ({error.strerror}); nothing was started. "
                "Name another with --run_dir"
            ) from error

    def check_contents(self) -> None:
        """Raise :class:`RunError` when a part of the run leads out of it, or would keep its reader waiting."""
        for path in self._parts():
            self._check_inside(path)
            try:
                mode = path.stat().st_mode
            except OSError:  # gone meanwhile, or a link to nothing
                continue
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise RunError(
                    f"{path} is neither a file nor a folder (a pipe or a device); nothing was read or written. Remove it"
                )

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
                raise RunError(f"{path} cannot be read: {error.strerror or error}. Mend the rights") from error

    def _own(self, name: str) -> Path:
        """A folder of the run. Raises :class:`RunError` when it is elsewhere in truth."""
        path = self.path / name
        self._check_inside(path)
        return path

    def _check_inside(self, path: Path) -> None:
        if path.is_symlink() and not _real(path).is_relative_to(_real(self.path)):
            raise RunError(
                f"{path} is a link to {shown(os.readlink(path))}, outside the run directory; nothing was read or written. "
                "Put what it leads to in its place; a run may lie anywhere, but as a whole (--run_dir)"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
