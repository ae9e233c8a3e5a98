"""A round's scalars, and in TensorBoard its histogram of rewards and sample self-edits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from seal_lightning.core import Attempt, AttemptStatus, BufferRow, Candidate
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule


class RoundReport(SealCallback):
    """Logs the attempts, kept edits and costs of each round; the step of the ``round/`` charts is the round.

    Args:
        num_samples: ≥ 0, self-edits shown as text per round: the best first, the worst last.

    Example:
        >>> round_summary(0, candidates=[], buffer=[])
        'Round 0: 0 attempts (); 0 of 0 edits kept'
    """

    def __init__(self, num_samples: int = 4) -> None:
        self.num_samples = num_samples
        self._start = 0.0
        self._attempts: list[Attempt] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the settings."""
        self._start = time.perf_counter()
        module = cast(SealModule, pl_module)
        settings = {"model": module.pretrained.source, "rounds": module.rounds, "num_edits": module.num_edits}
        settings |= {"num_repeats": module.num_repeats, "seed": module.seed, "reward": type(module.reward).__name__}
        settings |= {f"reinforce.{k}": v for k, v in asdict(module.reinforce).items()}
        settings |= {f"sampling.{k}": str(v) for k, v in asdict(module.sampling).items()}
        if trainer.logger is not None:
            trainer.logger.log_hyperparams(settings)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the phase's clock."""
        self._start = time.perf_counter()
        self._attempts = []

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Attempt) -> None:
        """Collect the attempts of this rank, for the phase's costs."""
        self._attempts.append(attempt)

    def on_buffer(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        candidates: Sequence[Candidate],
        buffer: Sequence[BufferRow],
    ) -> None:
        """Log the round."""
        module = cast(SealModule, pl_module)
        pl_module.print(round_summary(module.round_index, candidates, buffer))
        if trainer.logger is None:
            return
        metrics = round_metrics(candidates, buffer) | self._costs(module)
        trainer.logger.log_metrics({f"round/{name}": value for name, value in metrics.items()}, step=module.round_index)
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            self._show(trainer.logger.experiment, module.round_index, candidates)

    def _costs(self, module: SealModule) -> dict[str, float]:
        """Return attempts and trained tokens per time of this rank, and the sampling rate of its last batch."""
        if not self._attempts:
            return {}
        seconds = time.perf_counter() - self._start
        tokens = sum(a.plan.num_tokens for a in self._attempts if a.plan is not None)
        adapting = sum(a.adapt_seconds for a in self._attempts)
        costs = {"e_step_seconds": seconds, "attempts_per_minute": 60 * len(self._attempts) / seconds}
        if adapting > 0:
            costs["inner_loop_tokens_per_second"] = tokens / adapting
            costs["inner_loop_adapters_per_minute"] = 60 * len(self._attempts) / adapting
        if module.writer.tokens_per_second is not None:
            costs["sampled_tokens_per_second"] = module.writer.tokens_per_second
        return costs

    def _show(self, board: Any, step: int, candidates: Sequence[Candidate]) -> None:
        rewards = [a.reward for c in candidates for a in c.attempts if a.reward is not None]
        if rewards:
            board.add_histogram("round/rewards", torch.tensor(rewards), step)
        ranked = sorted(candidates, key=lambda c: -(c.reward if c.reward is not None else float("-inf")))
        half = self.num_samples // 2
        for place, candidate in enumerate(ranked[: self.num_samples - half] + ranked[len(ranked) - half :]):
            text = candidate.attempts[0].edit.text.replace("\n", "  \n")
            title = f"**{candidate.task_id}**, edit {candidate.edit_index}, reward {candidate.reward}"
            board.add_text(f"self-edits/{place}", f"{title}\n\n{text}", step)


def round_summary(round_index: int, candidates: Sequence[Candidate], buffer: Sequence[BufferRow]) -> str:
    """Return a round in one line: attempts by status, failures by kind, and the kept edits."""
    attempts = [a for c in candidates for a in c.attempts]
    statuses = Counter(a.status.value for a in attempts)
    ended = ", ".join(f"{statuses[s]} {s.value}" for s in AttemptStatus if statuses[s])
    unscored = Counter(kind for a in attempts if a.status is AttemptStatus.UNSCORED and (kind := a.failure_kind))
    kinds = Counter(kind for a in attempts if (kind := a.failure_kind)) - unscored
    failed = "".join(
        f"; {what}: " + ", ".join(f"{kind} {count}" for kind, count in of.most_common())
        for what, of in (("failed", kinds), ("unscored", unscored))
        if of
    )
    refused = Counter(kind for c in candidates for kind in c.attempts[0].edit.rejected)
    resampled = ", ".join(f"{kind} {count}" for kind, count in refused.most_common())
    return (
        f"Round {round_index}: {len(attempts)} attempts ({ended}{failed}); {len(buffer)} of {len(candidates)} edits kept"
        + (f"; malformed and sampled again: {resampled}" if resampled else "")
    )


def round_metrics(candidates: Sequence[Candidate], buffer: Sequence[BufferRow]) -> dict[str, float]:
    """Return a round's metrics by name; means of nothing are missing."""
    attempts = [a for c in candidates for a in c.attempts]
    metrics = {
        "attempts": float(len(attempts)),
        "kept_fraction": len(buffer) / max(len(candidates), 1),
    }
    for status in AttemptStatus:
        metrics[f"{status.value}_rate"] = sum(a.status is status for a in attempts) / max(len(attempts), 1)
    rewards = torch.tensor([a.reward for a in attempts if a.reward is not None])
    if len(rewards):
        metrics["reward_mean"] = rewards.mean().item()
        metrics["reward_best"] = rewards.max().item()
    for name, parts in _parts(attempts).items():
        metrics[f"reward_part/{name}"] = sum(parts) / len(parts)
    by_task: dict[str, list[float]] = {}
    for candidate in candidates:
        if candidate.reward is not None and candidate.reward > float("-inf"):
            by_task.setdefault(candidate.task_id, []).append(candidate.reward)
    if by_task:
        metrics["reward_best_of_task_mean"] = sum(max(r) for r in by_task.values()) / len(by_task)
    spreads = [torch.tensor(rewards).std().item() for rewards in by_task.values() if len(rewards) > 1]
    if spreads:
        metrics["reward_spread_within_task"] = sum(spreads) / len(spreads)
    edits = [c.attempts[0].edit for c in candidates]
    log_probs = [edit.log_prob for edit in edits if edit.log_prob is not None]
    if log_probs:
        metrics["edit_log_prob_mean"] = sum(log_probs) / len(log_probs)
    num_refused = sum(len(edit.rejected) for edit in edits)
    if edits:
        malformed = sum(c.attempts[0].status is AttemptStatus.MALFORMED for c in candidates)
        metrics["valid_sample_rate"] = 1 - (malformed + num_refused) / (len(edits) + num_refused)
    if buffer:
        metrics["reward_kept_mean"] = sum(row.reward for row in buffer) / len(buffer)
    return metrics


def _parts(attempts: Sequence[Attempt]) -> dict[str, list[float]]:
    """Return the parts of scored attempts' rewards by name: marks, terms of a sum, forgetting."""
    found: dict[str, list[float]] = {}
    for attempt in attempts:
        if attempt.reward is not None:
            for name, part in attempt.reward_breakdown.items():
                found.setdefault(name, []).append(part)
    return found
