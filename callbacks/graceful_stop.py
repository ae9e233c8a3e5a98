"""SIGTERM or SIGINT on any rank, or a rank that fails, ends all ranks in good order and soon."""

from __future__ import annotations

import atexit
import subprocess
import time
from typing import Any, cast

import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from seal_lightning.callbacks.phase_checkpoint import PhaseCheckpoint
from seal_lightning.core.errors import StopRequested
from seal_lightning.distributed import interruption
from seal_lightning.distributed.coordination import RankCoordinator, described, silence_allowed_s
from seal_lightning.training.module import SealModule

_CHILDREN_END_WITHIN_S = 8.0


class GracefulStop(Callback):
    """Ends the run where it can go on later.

    In the E-step each rank ends after its inner step or token; in the M-step all end after the same optimiser step. How
    long a rank may be silent before the others give it up is the strategy's ``timeout`` (DDP's default is 30 minutes).
    """

    def __init__(self) -> None:
        self._begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the ranks a board to leave notes on."""
        self._begun = True
        timeout_s = silence_allowed_s(trainer.strategy)
        interruption.begin(RankCoordinator(trainer.global_rank, trainer.world_size, timeout_s))
        interruption.listen()
        # Lightning's own handler enters a collective, in which the other ranks may not be; it calls ours behind it.
        trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen again, in place of what was registered meanwhile."""
        interruption.listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        interruption.listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        interruption.listen()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in training."""
        interruption.listen()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between phases, all ranks: the checkpoint of the last one is written."""
        _stop_all(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop within an M-step, all ranks after the same step; not on its last batch, after which no resume would merge."""
        if not cast(SealModule, pl_module).in_e_step and not trainer.is_last_batch:
            _stop_all(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the other ranks why this one fails, or the user what another one said."""
        if not self._begun and dist.is_initialized():  # its data failed; the others are about to look at their board
            self.setup(trainer, pl_module, "")
        interruption.fail(exception)
        if not isinstance(exception, StopRequested):
            cause = interruption.first_cause()
            if cause is not None and cause.rank != trainer.global_rank and cause.reason not in str(exception):
                exception.add_note(described(cause))
            interruption.end()
            if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
                atexit.register(_end_children, trainer.strategy.launcher.procs)
        elif trainer.global_rank > 0 and isinstance(_cluster(trainer), LightningEnvironment):
            exception.exit_code = 0  # Lightning kills the first rank when a child that it started ends with another one
        if not any(isinstance(callback, PhaseCheckpoint) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            interruption.end()  # which otherwise is done when the checkpoint is written

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        interruption.end()


def _stop_all(trainer: Trainer) -> None:
    """Stop if any rank is to; a collective."""
    interruption.stop_together(trainer.strategy.reduce_boolean_decision(interruption.called_off(), all=False))


def _cluster(trainer: Trainer) -> Any:
    return getattr(trainer.strategy, "cluster_environment", None)


def _end_children(children: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the ranks that this process started, and kill those that hang or are stopped."""
    deadline = time.monotonic() + _CHILDREN_END_WITHIN_S
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
