"""The folder of a run: where everything of it lies. Nothing in it is overwritten, and nothing leads out of it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seal_lightning.checkpoints import newest_checkpoint, remove_incomplete
from seal_lightning.durable import remove_leftovers, write_bytes
from seal_lightning.errors import RunError, shown
from seal_lightning.names import checked_name, checked_run_dir

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

MAX_CONFIG_BYTES = 10 * 2**20
MAX_CONFIG_VALUES = 100_000
MAX_CONFIG_DEPTH = 100
_PARTS = ("config*.yaml", "round_*", "checkpoints", "results", "tensorboard", ".*.tmp")
"""What of the folder is the run's; a folder may hold other things too."""
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?")
"""YAML's numbers to the base of 60: to read one takes time that grows with the square of its length."""


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

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, if there is one."""
        return newest_checkpoint(self.checkpoints)

    def tidy(self) -> None:
        """Remove what a process that was killed had not finished writing."""
        remove_leftovers(self.path)
        remove_incomplete(self.checkpoints)

    def settings(self) -> dict[str, Any]:
        """What :attr:`config` says, as plain values. Raises :class:`RunError` when it is no configuration."""
        path = self.config
        try:
            with path.open("rb") as file:
                content = file.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(content) > MAX_CONFIG_BYTES:
            raise RunError(f"{path} is no configuration: it has more than {MAX_CONFIG_BYTES >> 20} MiB")
        try:
            settings = _plain_yaml(content)
        except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
            reason = shown(" ".join(str(error).split()), 200)
            raise RunError(f"{path} is no configuration of plain values ({reason}); nothing was run") from error
        if not isinstance(settings, dict):
            raise RunError(f"{path} is no configuration: it is a {type(settings).__name__}, expected a mapping")
        return settings

    def write_result(self, name: str, content: object) -> Path:
        """Write ``results/{name}.json`` and return the path; see :meth:`write_text_result`."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        return self.write_text_result(name, "json", text)

    def write_text_result(self, name: str, suffix: str, text: str) -> Path:
        """Write ``results/{name}.{suffix}``, or ``{name}-2.{suffix}`` and so on where that exists; returns the path.

        Raises :class:`ConfigError` when these are no names.
        """
        checked_name(name, "the name of a result")
        checked_name(suffix, "the ending of a result")
        folder = self._own("results")
        number = 1
        while os.path.lexists(path := folder / f"{name}{f'-{number}' if number > 1 else ''}.{suffix}"):
            number += 1
        # A surrogate on its own is no text; as an escape it is the same string to JSON.
        write_bytes(path, text.encode(errors="backslashreplace"))
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


def _plain_yaml(content: bytes) -> Any:
    """What a YAML text says, if that is no more than the text could say without aliases.

    Looked through as a stream first: nine aliases of nine aliases of … take no time to write and for ever to read.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    num_values = 0
    open_nodes: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(content, Loader=loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias {shown(anchor)} stands before the end of its anchor")
            num_values += sizes[anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            name, start = open_nodes.pop()
            if name is not None:
                sizes[name] = num_values - start
        elif isinstance(event, yaml.NodeEvent):
            num_values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((anchor, num_values - 1))
            elif anchor is not None:
                sizes[anchor] = 1
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > 100 and _SIXTIES.fullmatch(event.value):
                raise ValueError(f"{shown(event.value)} is too long for a number")
        if num_values > MAX_CONFIG_VALUES or len(open_nodes) > MAX_CONFIG_DEPTH:
            raise ValueError(
                f"it has more than {MAX_CONFIG_VALUES} values, its aliases written out, or more than {MAX_CONFIG_DEPTH} "
                "levels"
            )
    # The loader is one of the two safe ones, which bandit cannot see.
    return yaml.load(content, Loader=loader)  # noqa: S506  # nosec B506
