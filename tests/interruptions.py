"""Callbacks of the end-to-end tests: end a run somewhere, save more often, keep every rank's policy."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback


class Interrupt(SealCallback):
    """Raises where $SEAL_TEST_INTERRUPT says: ``WHAT:EPOCH:N``, at the N-th of the epoch.

    WHAT is ``attempt``, ``batch`` (its start), ``batch_end``, ``epoch`` (its start) or ``epoch_end``.
    """

    def __init__(self) -> None:
        self.count = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count = 0
        self._count("epoch", trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.count = 0
        self._count("epoch_end", trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count("batch_end", trainer)

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Any) -> None:
        self._count("attempt", trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._count("batch", trainer)

    def _count(self, what: str, trainer: Trainer) -> None:
        kind, epoch, number = os.environ.get("SEAL_TEST_INTERRUPT", "never:0:0").split(":")
        if kind == what and int(epoch) == trainer.current_epoch:
            self.count += 1
            if self.count == int(number):
                raise RuntimeError("interrupted by the test")


class SaveOften(Checkpoint):
    """A checkpoint after every batch, in E-steps too; Lightning's trap, the last batch, is left out."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_last_batch:
            phase = "em"[trainer.current_epoch % 2]
            name = f"round{trainer.current_epoch // 2}-{phase}_step-often-{batch_idx}.ckpt"
            path = RunDir.of(trainer).checkpoints / name
            trainer.save_checkpoint(path, weights_only=False)


class SavePolicyOfRank(Callback):
    """Each rank's merged weights, to compare."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = {name: tensor.clone() for name, tensor in pl_module.policy.model.state_dict().items()}
        torch.save(weights, RunDir.of(trainer).path / f"policy.rank{trainer.global_rank}.pt")
