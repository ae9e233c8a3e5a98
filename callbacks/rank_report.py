"""Throughput, stragglers, waiting, GPU memory and utilisation of each rank, phase by phase."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer

from seal_lightning.core import Attempt, RankPhase
from seal_lightning.distributed import interruption
from seal_lightning.distributed.timers import straggler, time_shares
from seal_lightning.storage.journal import RecordFile
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule

_SAMPLE_EVERY_S = 1.0


class RankReport(SealCallback):
    """Logs ``ranks/…``, ``time/…`` and ``gpu/…`` after each phase, and keeps them in ``round_{r}/ranks.{phase}.jsonl``.

    The step of the charts is the round. ``time/…`` are shares of all ranks' time; ``ranks/straggler`` is the slowest rank's
    busy time divided by the mean, minus 1. Exchanging gradients is part of ``reinforce``.

    Example:
        >>> phase = RankPhase(rank=0, host="a", phase="e_step", seconds=60.0, split={"adapt": 60.0}, num_attempts=3)
        >>> rank_metrics([phase])["ranks/attempts_per_minute/0"]
        3.0
    """

    def __init__(self) -> None:
        self._attempts: list[Attempt] = []
        self._utilisation: list[float] = []
        self._sampled = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a resumed phase: Lightning does not begin its epoch again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the phase's clock."""
        cast(SealModule, pl_module).runner.time_split.restart()
        self._attempts, self._utilisation = [], []
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Attempt) -> None:
        """Count the attempt."""
        self._attempts.append(attempt)
        self._sample(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sample the GPU's utilisation."""
        self._sample(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather, log and write every rank's figures."""
        module = cast(SealModule, pl_module)
        ranks = interruption.gather([self._figures(trainer, module)])
        if len(ranks) > 1:
            pl_module.print(in_words(ranks))
        if trainer.logger is not None:
            trainer.logger.log_metrics(rank_metrics(ranks), step=module.round_index)
        if trainer.is_global_zero:
            folder = RunDir.of(trainer).round(module.round_index)
            RecordFile(folder / f"ranks.{ranks[0].phase}.jsonl", RankPhase).write(ranks)

    def _figures(self, trainer: Trainer, module: SealModule) -> RankPhase:
        cuda = module.device.type == "cuda"
        split = module.runner.time_split.seconds()
        return RankPhase(
            rank=trainer.global_rank,
            host=socket.gethostname(),
            phase="e_step" if module.in_e_step else "m_step",
            seconds=sum(split.values()),
            split=split,
            num_attempts=len(self._attempts),
            num_tokens=sum(a.plan.num_tokens for a in self._attempts if a.plan is not None),
            gpu_memory_bytes=torch.cuda.max_memory_allocated(module.device) if cuda else None,
            gpu_utilisation=fmean(self._utilisation) if self._utilisation else None,
        )

    def _sample(self, device: torch.device) -> None:
        if device.type == "cuda" and time.perf_counter() - self._sampled >= _SAMPLE_EVERY_S:
            self._sampled = time.perf_counter()
            with suppress(ModuleNotFoundError, RuntimeError):  # it needs nvidia-ml-py and a driver that reports
                self._utilisation.append(float(torch.cuda.utilization(device)))


def rank_metrics(ranks: Sequence[RankPhase]) -> dict[str, float]:
    """Return a phase's metrics by name."""
    phase = ranks[0].phase
    metrics = {f"time/{phase}/{activity}": share for activity, share in time_shares(ranks).items()}
    metrics[f"ranks/{phase}/straggler"] = straggler(ranks)
    for one in ranks:
        if phase == "e_step":
            metrics[f"ranks/attempts_per_minute/{one.rank}"] = 60 * one.num_attempts / max(one.seconds, 1e-9)
        metrics[f"ranks/{phase}/busy_seconds/{one.rank}"] = one.busy_seconds
        if one.gpu_memory_bytes is not None:
            metrics[f"gpu/{phase}/memory_gib/{one.rank}"] = one.gpu_memory_bytes / 2**30
        if one.gpu_utilisation is not None:
            metrics[f"gpu/{phase}/utilisation_percent/{one.rank}"] = one.gpu_utilisation
    return metrics


def in_words(ranks: Sequence[RankPhase]) -> str:
    """Return one line about a phase's ranks."""
    shares = sorted(time_shares(ranks).items(), key=lambda item: -item[1])
    spent = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
    slowest = max(ranks, key=lambda one: one.busy_seconds)
    phase = "E-step" if ranks[0].phase == "e_step" else "M-step"
    return (
        f"{phase} on {len(ranks)} ranks: {max(one.seconds for one in ranks):.1f} s ({spent}); rank {slowest.rank} on "
        f"{slowest.host} was busy {straggler(ranks):.0%} longer than the mean"
    )
