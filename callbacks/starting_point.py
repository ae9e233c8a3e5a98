"""Has all ranks go on from one checkpoint: rank 0's choice."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.core.errors import RunError
from seal_lightning.distributed import interruption
from seal_lightning.storage.run_dir import RunDir

_SEEN_WITHIN_S = 15.0
"""Network file systems remember for seconds what was not there."""


class StartingPoint(Callback):
    """Chooses the checkpoint once the ranks have met.

    Each rank looked for itself before that; a network file system may have shown them different folders, and a rank of the
    start before this one, on a host that was cut off, may have written meanwhile.

    Args:
        checkpoint: what was named; None for none.
        newest: take the run's newest whole checkpoint instead, if there is one.
    """

    def __init__(self, checkpoint: str | None = None, newest: bool = False) -> None:
        self.checkpoint = checkpoint
        self.newest = newest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put rank 0's choice in place of what Lightning was told. Raises :class:`RunError`; a collective."""
        if self.newest and stage != "fit":
            return
        chosen = self.checkpoint
        if self.newest and trainer.is_global_zero:
            newest = RunDir.of(trainer).latest_checkpoint()
            chosen = None if newest is None else str(newest)
        if trainer.world_size > 1:
            chosen = interruption.gather([chosen])[0]
            _require_seen(chosen)
        connector: Any = trainer._checkpoint_connector
        start = connector.resume_start  # called with what `fit` was given, before the ranks had met
        connector.resume_start = lambda path=None, weights_only=None: start(chosen, weights_only=weights_only)


def _require_seen(checkpoint: str | None) -> None:
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while not (seen := checkpoint is None or Path(checkpoint).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for rank, (host, sees) in enumerate(interruption.gather([(socket.gethostname(), seen)])):
        if not sees:
            raise RunError(
                f"rank {rank} (host {host}) cannot see the checkpoint {checkpoint}, with which rank 0 goes on. Nothing was "
                "started. All hosts need it on one file system (NFS, Lustre …) under the same path"
            )
