"""SIGTERM or SIGINT on any rank, or a rank that fails, ends all ranks soon and in good order."""

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
from seal_lightning.distributed.coordination import RankCoordinator, silence_timeout_s
from seal_lightning.training.module import SealModule

_CHILDREN_END_WITHIN_S = 8.0


class GracefulStop(Callback):
    """Ends the run where it can be resumed.

    In the E-step each rank ends after its inner step or token; in the M-step all end after the same optimiser step. A rank
    that is silent for the strategy's ``timeout`` (DDP's default is 30 minutes) is lost to the others.

    Example:
        >>> callbacks = [GracefulStop(), PhaseCheckpoint(every_n_steps=10)]
        >>> [type(callback).__name__ for callback in callbacks]
        ['GracefulStop', 'PhaseCheckpoint']
    """

    def __init__(self) -> None:
        self._begun = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the coordination of the ranks, and handle signals."""
        self._begun = True
        timeout_s = silence_timeout_s(trainer.strategy)
        interruption.start(RankCoordinator(trainer.global_rank, trainer.world_size, timeout_s))
        interruption.install_handlers()
        # Lightning's own handler enters a collective, in which the other ranks may not be; it calls ours after it.
        trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again, in place of those that Lightning has installed since."""
        interruption.install_handlers()

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between phases, on all ranks: the last phase's checkpoint is written."""
        _stop_all(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop within an M-step, all ranks after the same step; not on its last batch, after which no resume would merge."""
        if not cast(SealModule, pl_module).in_e_step and not trainer.is_last_batch:
            _stop_all(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Report this rank's failure to the others, or add another rank's to the error."""
        if not self._begun and dist.is_initialized():  # this rank's data failed; the others are about to poll
            self.setup(trainer, pl_module, "")
        interruption.report_failure(exception)
        if not isinstance(exception, StopRequested):
            cause = interruption.posted_notice()
            if cause is not None and cause.rank != trainer.global_rank and cause.reason not in str(exception):
                exception.add_note(str(cause))
            interruption.finish()
            if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
                atexit.register(_end_children, trainer.strategy.launcher.procs)
        elif trainer.global_rank > 0 and isinstance(_cluster(trainer), LightningEnvironment):
            exception.exit_code = 0  # Lightning kills the first rank when a child that it started ends with another one
        if not any(isinstance(callback, PhaseCheckpoint) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            interruption.finish()  # otherwise PhaseCheckpoint does so, once its checkpoint is written

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers from before the run."""
        interruption.finish()


def _stop_all(trainer: Trainer) -> None:
    """Stop if any rank is to; a collective."""
    stopped = trainer.strategy.reduce_boolean_decision(interruption.stop_requested(), all=False)
    interruption.raise_if_stopped(stopped)


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
