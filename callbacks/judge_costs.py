"""The judges' questions and costs, per round and at the end; and a check of their keys before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from typing import cast

from lightning.pytorch import LightningModule, Trainer

from seal_lightning.core import BufferRow, Candidate, JudgeCounts
from seal_lightning.core.interfaces import Grader, Judge, Rater, Reward
from seal_lightning.distributed import interruption
from seal_lightning.evaluation import ConditionResult
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule

_HOLDERS = (Grader, Reward, Rater, Judge)


class JudgeCosts(SealCallback):
    """Logs ``judge/…`` for each judge of the grader and of the reward: the questions of all ranks so far, and their cost.

    Example:
        >>> in_words(JudgeCounts(num_questions=2, num_cached=1))
        '2 questions, 1 of them from the cache; 0 undecided'
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise :class:`ConfigError` for a judge without its key, before anything is computed."""
        for judge in judges_of(cast(SealModule, pl_module)):
            judge.check()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the judges, as for a fit."""
        self.on_fit_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the judges, as for a fit."""
        self.on_fit_start(trainer, pl_module)

    def on_buffer(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        candidates: Sequence[Candidate],
        buffer: Sequence[BufferRow],
    ) -> None:
        """Log the counts after an E-step."""
        self._log(trainer, cast(SealModule, pl_module), cast(SealModule, pl_module).round_index)

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Print the counts of a test."""
        self._say(cast(SealModule, pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the counts of a fit."""
        self._say(cast(SealModule, pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Print the counts so far."""
        self._say(cast(SealModule, pl_module))

    @staticmethod
    def _log(trainer: Trainer, module: SealModule, step: int) -> None:
        here = [counts for judge in judges_of(module) if (counts := judge.counts) is not None]
        ranks = interruption.gather([here])
        if trainer.logger is None:
            return
        for number, counts in enumerate(map(_total, zip(*ranks, strict=True))):
            place = f"judge_{number + 1}" if number else "judge"
            metrics = {
                f"{place}/{field.name.removeprefix('num_')}": float(value)
                for field, value in zip(fields(counts), astuple(counts), strict=True)
                if isinstance(value, int | float)
            }
            trainer.logger.log_metrics(metrics, step=step)

    @staticmethod
    def _say(module: SealModule) -> None:
        of_ranks = f" (rank 0 of {module.trainer.world_size})" if module.trainer.world_size > 1 else ""
        for judge in judges_of(module):
            if (counts := judge.counts) is not None and counts.num_questions:
                module.print(f"{type(judge).__name__}{of_ranks}: {in_words(counts)}")


def _total(ranks: Sequence[JudgeCounts]) -> JudgeCounts:
    """Return the counts of all ranks together, without reasons."""
    names = [field.name for field in fields(JudgeCounts) if field.name.startswith("num_")]
    sums = {name: sum(getattr(counts, name) for counts in ranks) for name in names}
    costs = [counts.cost for counts in ranks if counts.cost is not None]
    return JudgeCounts(**sums, cost=sum(costs) if costs else None)


def in_words(counts: JudgeCounts) -> str:
    """Return a judge's counts in one line."""
    asked = counts.num_questions - counts.num_cached
    words = [f"{counts.num_questions} questions, {counts.num_cached} of them from the cache"]
    undecided = f"{counts.num_undecided} undecided"
    if counts.num_undecided:
        why = "; ".join(f"{count} × {reason}" for reason, count in counts.reasons)
        undecided += f" ({counts.num_undecided / max(counts.num_questions, 1):.1%}; unscored, not wrong): {why}"
    words.append(undecided)
    if counts.num_requests:
        words.append(f"{counts.num_requests} requests for {asked} questions")
        words.append(f"{counts.num_input_tokens} tokens in, {counts.num_output_tokens} out")
    if counts.num_unmetered:
        words.append(f"{counts.num_unmetered} replies without a count of tokens")
    if counts.cost is not None:
        words.append(f"cost {counts.cost:.4f}")
    return "; ".join(words)


def judges_of(module: SealModule) -> list[Judge]:
    """Return the distinct judges that the module's grader and reward hold, at any depth."""
    found: dict[int, Judge] = {}
    seen: set[int] = set()
    unseen: list[object] = [module.grader, module.reward]
    while unseen:
        holder = unseen.pop(0)
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, Judge):
            found[id(holder)] = holder
        unseen += _held_by(holder)
    return list(found.values())


def _held_by(holder: object) -> Iterator[object]:
    if isinstance(holder, Mapping):
        yield from holder.values()
    elif isinstance(holder, list | tuple):
        yield from holder
    elif isinstance(holder, _HOLDERS) or (is_dataclass(holder) and not isinstance(holder, type)):
        yield from vars(holder).values()
