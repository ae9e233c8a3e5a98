"""Checks at the start of a run on several ranks: same inputs, one run directory, one checkpoint to resume from."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.distributed import interruption
from seal_lightning.distributed.rank_consistency import installed, require_agreement, settings_part, tasks_part
from seal_lightning.storage.run_dir import RunDir

_SPLITS = ("train", "validation", "test", "predict")
_VISIBLE_WITHIN_S = 15.0
"""Time for one host's files to show on another: network file systems cache for seconds that a file is missing."""
_POLL_INTERVAL_S = 0.2


class RankAgreement(Callback):
    """Compares the ranks' settings, packages and data before a model is loaded; their weights are compared after that.

    Args:
        settings: the run's configuration, as plain values; the command line gives it.

    Example:
        >>> RankAgreement({"model": {"seed": 1}}).settings["model"]
        {'seed': 1}
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.settings = settings or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`RanksDiffer`, on every rank; a collective."""
        if trainer.world_size == 1:
            return
        mine = installed() | settings_part(self.settings)
        tasks = getattr(trainer.datamodule, "tasks", None)  # type: ignore[attr-defined]
        if tasks is not None:
            for split in _SPLITS:
                mine |= tasks_part(split, tasks(split))
        require_agreement(mine)


class SharedRunDir(Callback):
    """Ends a run at its start where a host has a run directory of its own: a resume would not find its files.

    Every rank writes a file into the run directory, and must see rank 0's.

    Args:
        wait_s: ≥ 0, seconds until rank 0's file must be visible.

    Example:
        >>> SharedRunDir(wait_s=5).wait_s
        5
    """

    def __init__(self, wait_s: float = _VISIBLE_WITHIN_S) -> None:
        if wait_s < 0:
            raise ConfigError(f"SharedRunDir.wait_s: {wait_s} is not allowed; it must be at least 0")
        self.wait_s = wait_s

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`RunError`, on every rank, before anything is stored; a collective."""
        if stage != "fit" or trainer.world_size == 1:
            return
        folder, host = RunDir.of(trainer).path, socket.gethostname()
        # Named like a temporary file, which the next start removes if this process is killed.
        mine = folder / f".rank{trainer.global_rank}-{uuid.uuid4().hex}.{os.getpid()}.tmp"
        try:
            problem = _touch(mine)
            first = interruption.gather([mine.name])[0]
            # By a listing: a single name may be cached as missing.
            if not problem and not _wait_until(lambda: first in os.listdir(folder), self.wait_s):
                problem = "it does not see the files that rank 0 writes there"
            problems = interruption.gather([(host, str(folder), problem)])
        finally:
            with suppress(OSError):
                mine.unlink()
        for rank, (host, where, problem) in enumerate(problems):
            if problem:
                raise RunError(
                    f"the run directory {where} is not shared with rank {rank} (host {host}): {problem}. Choose a --run_dir "
                    "on a file system that all hosts share (NFS, Lustre …), under the same path"
                )


def _touch(file: Path) -> str:
    """Create the file; return the disk's error, or nothing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        return f"it cannot write there ({error.strerror or error})"
    return ""


def _wait_until(condition: Callable[[], bool], wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
    return holds


class StartingPoint(Callback):
    """Chooses the checkpoint to resume from, on rank 0 and for all ranks, once they have met.

    Before that each rank may have seen another folder: on a network file system, or because a rank of the start before
    this one, on a host that was cut off, has written meanwhile.

    Args:
        checkpoint: the path that was given; None for none.
        newest: take the run's newest intact checkpoint instead, if there is one.

    Example:
        >>> StartingPoint(newest=True).checkpoint is None
        True
    """

    def __init__(self, checkpoint: str | None = None, newest: bool = False) -> None:
        self.checkpoint = checkpoint
        self.newest = newest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's checkpoint path by rank 0's choice. Raises :class:`RunError`; a collective."""
        if self.newest and stage != "fit":
            return
        chosen = self.checkpoint
        if self.newest and trainer.is_global_zero:
            newest = RunDir.of(trainer).latest_checkpoint()
            chosen = None if newest is None else str(newest)
        if trainer.world_size > 1:
            chosen = interruption.gather([chosen])[0]
            _require_visible(chosen)
        connector: Any = trainer._checkpoint_connector
        start = connector.resume_start  # Lightning calls it with the path from before the ranks met
        connector.resume_start = lambda path=None, weights_only=None: start(chosen, weights_only=weights_only)


def _require_visible(checkpoint: str | None) -> None:
    visible = checkpoint is None or _wait_until(Path(checkpoint).exists, _VISIBLE_WITHIN_S)
    for rank, (host, sees) in enumerate(interruption.gather([(socket.gethostname(), visible)])):
        if not sees:
            raise RunError(
                f"rank {rank} (host {host}) cannot see the checkpoint {checkpoint}, from which rank 0 resumes. Put the run "
                "directory on a file system that all hosts share (NFS, Lustre …), under the same path"
            )
