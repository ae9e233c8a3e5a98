"""Checkpoints at the end of each phase, and within M-steps.

An E-step needs none of its own: the policy stands still and every attempt is stored. Never on an epoch's last batch, where
Lightning would skip the epoch's end on resume and with it the buffer or the merge.
"""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.errors import ConfigError
from seal_lightning.module import SealModule
from seal_lightning.rundir import RunDir


class PhaseCheckpoint(Checkpoint):
    """Writes ``checkpoints/round{r}-e_step.ckpt``, ``round{r}-m_step.ckpt`` and, within, ``round{r}-m_step-{n}.ckpt``.

    Args:
        every_n_steps: ≥ 1, optimiser steps between the checkpoints of an M-step.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"PhaseCheckpoint.every_n_steps: {every_n_steps} is not allowed; it must be at least 1")
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an M-step."""
        module = cast(SealModule, pl_module)
        if not module.in_e_step and (batch_idx + 1) % self.every_n_steps == 0 and not trainer.is_last_batch:
            self._save(trainer, f"round{module.round_index}-m_step-{batch_idx + 1:06d}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at a phase's end; checkpoint callbacks run last, so the buffer is built and the policy exported."""
        module = cast(SealModule, pl_module)
        self._save(trainer, f"round{module.round_index}-{'e_step' if module.in_e_step else 'm_step'}")

    @staticmethod
    def _save(trainer: Trainer, name: str) -> None:
        path = RunDir.of(trainer).checkpoints / f"{name}.ckpt"
        scratch = path.with_suffix(".tmp")  # the same folder: a rename is then all or nothing
        trainer.save_checkpoint(scratch, weights_only=False)
        if trainer.is_global_zero:
            scratch.replace(path)
