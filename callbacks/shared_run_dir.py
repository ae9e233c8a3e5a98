"""Ends a run at its start where a host has a run directory of its own: what it stored there, no resume would find."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.distributed import interruption
from seal_lightning.storage.run_dir import RunDir


class SharedRunDir(Callback):
    """Has every rank leave a file in the run directory that rank 0 must see, and the other way round.

    Args:
        wait_s: ≥ 0, how long is looked for a file: network file systems remember for seconds what was not there.
    """

    def __init__(self, wait_s: float = 15.0) -> None:
        if wait_s < 0:
            raise ConfigError(f"SharedRunDir.wait_s: {wait_s} is not allowed; it must be at least 0")
        self.wait_s = wait_s

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`RunError`, on every rank, before anything is stored; a collective."""
        if stage != "fit" or trainer.world_size == 1:
            return
        folder = RunDir.of(trainer).path
        # As a temporary of a process that was killed, it would be cleared away by the next start.
        mine = folder / f".rank{trainer.global_rank}-{uuid.uuid4().hex}.{os.getpid()}.tmp"
        try:
            problem = _left(mine)
            met = interruption.gather([(socket.gethostname(), str(folder), mine.name, problem)])
            _refuse([(rank, host, where, problem) for rank, (host, where, _, problem) in enumerate(met)])
            names = [name for _, _, name, _ in met]
            unseen = interruption.gather(
                [_missing(folder, names if trainer.is_global_zero else names[:1], self.wait_s)]
            )
        finally:
            with suppress(OSError):
                mine.unlink()
        apart = {names.index(name) for name in unseen[0]} | {
            rank for rank, missed in enumerate(unseen) if rank and missed
        }
        problem = f"what it and rank 0 (host {met[0][0]}) write there, the other one does not see"
        _refuse([(rank, *met[rank][:2], problem) for rank in sorted(apart)])


def _refuse(problems: Sequence[tuple[int, str, str, str]]) -> None:
    for rank, host, folder, problem in problems:
        if problem:
            raise RunError(
                f"the run directory {folder} is not shared with rank {rank} (host {host}): {problem}. Nothing was started. "
                "All hosts need it on one file system (NFS, Lustre …) under the same path: name such a place with --run_dir"
            )


def _left(file: Path) -> str:
    """Leave the file; what the disk has against it, or nothing."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        return f"it cannot write there ({error.strerror or error})"
    return ""


def _missing(folder: Path, names: Sequence[str], wait_s: float) -> list[str]:
    """Which of the files are not there after a while; by a listing, because one name may be answered from memory."""
    deadline = time.monotonic() + wait_s
    while True:
        there = set(os.listdir(folder))
        missing = [name for name in names if name not in there]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.2)
