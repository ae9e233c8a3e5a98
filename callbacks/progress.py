"""A Rich progress bar that shows the E-step's task, candidate and running reward."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from seal_lightning.core import Attempt
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule


class SealProgressBar(RichProgressBar, SealCallback):
    """Lightning's Rich bar, updated by each attempt as well as by each batch.

    Example:
        >>> SealProgressBar().is_enabled
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._module: SealModule | None = None
        self._shown: dict[str, str] = {}
        self._rewards: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the running reward at a phase's start."""
        self._module = cast(SealModule, pl_module)
        self._shown, self._rewards = {}, []
        super().on_train_epoch_start(trainer, pl_module)

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Attempt) -> None:
        """Show the attempt that was just stored."""
        module = cast(SealModule, pl_module)
        if attempt.reward is not None:
            self._rewards.append(attempt.reward)
        self._shown = {
            "task": attempt.task_id[:24],
            "edit": f"{attempt.edit.edit_index + 1}/{module.num_edits}",
            "reward": attempt.status.value if attempt.reward is None else f"{attempt.reward:.3f}",
        }
        if self._rewards:
            self._shown["mean"] = f"{sum(self._rewards) / len(self._rewards):.3f}"
        self._update_metrics(trainer, pl_module)
        self.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return Lightning's metrics and the last attempt's."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {**metrics, **self._shown}

    def _get_train_description(self, current_epoch: int) -> str:
        phase = "E-step" if current_epoch % 2 == 0 else "M-step"
        return f"Round {current_epoch // 2} {phase}"
