"""The folder of a run: where everything of it lies. Nothing in it is overwritten."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seal_lightning.checkpoints import newest_checkpoint, remove_incomplete
from seal_lightning.durable import remove_leftovers, write_bytes
from seal_lightning.errors import RunError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass(frozen=True)
class RunDir:
    """``config.yaml``, ``round_0/``, ``round_1/`` …, ``checkpoints/``, ``results/``, ``tensorboard/``."""

    path: Path

    @classmethod
    def of(cls, trainer: Trainer) -> RunDir:
        """The trainer's run: its ``default_root_dir``."""
        return cls(Path(trainer.default_root_dir))

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
        return self.path / "checkpoints"

    def round(self, index: int) -> Path:
        """Attempts, accepted edits and the policy of one round, counted from 0."""
        return self.path / f"round_{index}"

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole, if there is one."""
        return newest_checkpoint(self.checkpoints)

    def tidy(self) -> None:
        """Remove what a process that was killed had not finished writing."""
        remove_leftovers(self.path)
        remove_incomplete(self.checkpoints)

    def write_result(self, name: str, content: object) -> Path:
        """Write ``results/{name}.json`` and return the path; see :meth:`write_text_result`."""
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        return self.write_text_result(name, "json", text)

    def write_text_result(self, name: str, suffix: str, text: str) -> Path:
        """Write ``results/{name}.{suffix}``, or ``{name}-2.{suffix}`` and so on where that exists; returns the path."""
        folder = self.path / "results"
        number = 1
        while (path := folder / f"{name}{f'-{number}' if number > 1 else ''}.{suffix}").exists():
            number += 1
        write_bytes(path, text.encode())
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
