"""The journal of attempts, from which an interrupted E-step resumes."""

from __future__ import annotations

from typing import cast

from lightning.pytorch import LightningModule, Trainer

from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir, RunLock
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule


class AttemptJournal(SealCallback):
    """Stores a round's attempts in ``round_{r}/attempts.rank{n}.jsonl`` of the run directory.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(default_root_dir="run", logger=False, accelerator="cpu")
        >>> AttemptJournal().attempt_store(trainer, round_index=0).folder.name
        'round_0'
    """

    def __init__(self) -> None:
        self._lock: RunLock | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock the run directory."""
        run = RunDir.of(trainer)
        run.check_writable()
        if trainer.is_global_zero:
            self._lock = RunLock(run.path)
            self._lock.acquire()
            run.tidy()

    def attempt_store(self, trainer: Trainer, round_index: int) -> AttemptStore:
        """Return the round's journals."""
        return AttemptStore(RunDir.of(trainer).round(round_index), trainer.global_rank)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the journal and release the lock, so that another process can resume."""
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the journal and release the lock."""
        loop = cast(SealModule, pl_module).self_edit_loop
        if loop is not None:
            loop.close()
        if self._lock is not None:
            self._lock.release()
