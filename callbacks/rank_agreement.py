"""Ends a run at its start where ranks have different settings, packages or data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.distributed.rank_consistency import installed, of_settings, of_tasks, require_agreement

_SPLITS = ("train", "validation", "test", "predict")


class RankAgreement(Callback):
    """Compares what the ranks were given, before a model is loaded; their weights are compared when they are.

    Args:
        settings: the run's configuration, as plain values; the command line gives it.
    """

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self.settings = settings or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`RanksDiffer`, on every rank; a collective."""
        if trainer.world_size == 1:
            return
        parts = {"packages": installed(), "the configuration": of_settings(self.settings)}
        tasks = getattr(trainer.datamodule, "tasks", None)  # type: ignore[attr-defined]
        if tasks is not None:
            parts |= {f"data.{name}": of_tasks(tasks(name)) for name in _SPLITS}
        require_agreement(parts)
