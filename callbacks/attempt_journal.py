"""Keeps every attempt on the disk, so that an interrupted E-step goes on where it was."""

from __future__ import annotations

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.storage.run_lock import RunLock
from seal_lightning.training.loop import SelfEditLoop
from seal_lightning.training.module import SealModule


class AttemptJournal(Callback):
    """Stores a round's attempts in ``round_{r}/attempts.rank{n}.jsonl`` of the run directory."""

    def __init__(self) -> None:
        self._lock: RunLock | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the self-edit loop its store."""
        run, rank = RunDir.of(trainer), trainer.global_rank
        run.check_writable()
        if trainer.is_global_zero:
            self._lock = RunLock(run.path)
            self._lock.acquire()
            run.tidy()
        loop = cast(SealModule, pl_module).self_edit_loop
        loop.open_store = lambda round_index: AttemptStore(run.round(round_index), rank)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let another process go on."""
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the journal."""
        loop: SelfEditLoop | None = getattr(
            pl_module, "self_edit_loop", None
        )  # there is none before the model is loaded
        if loop is not None:
            loop.close()
        if self._lock is not None:
            self._lock.release()
