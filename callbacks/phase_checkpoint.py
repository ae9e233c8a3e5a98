"""Checkpoints at the end of each phase, within M-steps, and where a run is stopped.

Never on an epoch's last batch, where Lightning would skip the epoch's end on resume and with it the buffer or the merge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.core.errors import ConfigError, SealError, StopRequested
from seal_lightning.distributed import interruption
from seal_lightning.storage.checkpoints import PHASES, complete_checkpoints
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

_OTHERS_COME_WITHIN_S = 20.0
"""After a signal: an inner step, or a token, of the slowest rank."""
_OTHERS_LEAVE_WITHIN_S = 6.0


class PhaseCheckpoint(Checkpoint):
    """Writes ``checkpoints/round{r}-e_step.ckpt``, ``round{r}-m_step.ckpt`` and, within, ``round{r}-m_step-{n}.ckpt``.

    An E-step needs none before its end, because every attempt is stored; one that is stopped writes
    ``round{r}-e_step-stopped.ckpt``, from which it starts at its first batch and skips what is stored.

    Args:
        every_n_steps: ≥ 1, optimiser steps between the checkpoints of an M-step. One more is written before its last
            step, so that a run that dies in the validation after it repeats one step only.
        keep: ≥ 1, number of newest checkpoints to keep (each holds the LoRAs of all rounds); null keeps all.

    Example:
        >>> PhaseCheckpoint(every_n_steps=10, keep=None).every_n_steps
        10
    """

    def __init__(self, every_n_steps: int = 50, keep: int | None = 3) -> None:
        for name, value in {"every_n_steps": every_n_steps, "keep": keep}.items():
            if value is not None and value < 1:
                raise ConfigError(f"PhaseCheckpoint.{name}: {value} is not allowed; it must be at least 1")
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._within_phase = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that the phase has begun: from now on a stop has something to save."""
        self._within_phase = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an M-step."""
        module = cast(SealModule, pl_module)
        if module.in_e_step or trainer.is_last_batch:
            return
        steps = batch_idx + 1
        if steps % self.every_n_steps == 0 or steps == int(trainer.num_training_batches) - 1:
            self._save(trainer, f"round{module.round_index}-m_step-{steps:06d}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at a phase's end; checkpoint callbacks run last, so the buffer is built and the policy exported."""
        module = cast(SealModule, pl_module)
        self._within_phase = False
        self._save(trainer, f"round{module.round_index}-{'e_step' if module.in_e_step else 'm_step'}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where the run was stopped, if all ranks came here and Lightning can resume from there."""
        if not isinstance(exception, StopRequested):
            return
        try:
            if interruption.finish_together(_OTHERS_COME_WITHIN_S):
                self._save_where_it_stopped(trainer, cast(SealModule, pl_module))
        except SealError as error:
            exception.add_note(f"No checkpoint was written where the run stopped: {error}")
        finally:
            interruption.finish(_OTHERS_LEAVE_WITHIN_S)
        if trainer.is_global_zero and trainer.state.fn == "fit":
            run = RunDir.of(trainer).path
            exception.add_note(f"Attempts and checkpoints are kept. Resume with `seal fit --resume {run}`")

    def _save_where_it_stopped(self, trainer: Trainer, module: SealModule) -> None:
        if self._within_phase and trainer.training and module.in_e_step:
            progress: Any = trainer.fit_loop.epoch_progress
            for counted in (progress.current, progress.total):
                counted.processed = counted.completed  # a rank that waits for the others has ended its own epoch
            self._save(trainer, f"round{module.round_index}-e_step-stopped")
        elif self._within_phase and trainer.training and not trainer.is_last_batch:
            steps = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            self._save(trainer, f"round{module.round_index}-m_step-{steps:06d}")

    def _save(self, trainer: Trainer, name: str) -> None:
        folder = RunDir.of(trainer).checkpoints
        trainer.save_checkpoint(folder / f"{name}.ckpt", weights_only=False)
        if self.keep is not None and trainer.is_global_zero:
            for old in _all_but_newest(folder, self.keep):
                trainer.strategy.remove_checkpoint(old)


def _all_but_newest(folder: Path, keep: int) -> list[Path]:
    return complete_checkpoints(folder, PHASES)[:-keep]
