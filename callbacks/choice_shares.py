"""What a round's edits chose, and which choices were kept; for edits written by constrained decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from lightning.pytorch import LightningModule, Trainer

from seal_lightning.core import BufferRow, Candidate, SelfEdit
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule


class ChoiceShares(SealCallback):
    """Logs the share of each option of each choice, among the edits tried and among those kept (``choices/…``).

    The step of the charts is the round: where selection works, the two part, and what was kept is tried more often in the
    next round.
    """

    def on_buffer(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        candidates: Sequence[Candidate],
        buffer: Sequence[BufferRow],
    ) -> None:
        """Log the round."""
        round_index = cast(SealModule, pl_module).round_index
        edits = {(c.task_id, c.edit_index): c.attempts[0].edit for c in candidates if c.attempts}
        tried = choice_counts(list(edits.values()))
        kept = choice_counts([edits[key] for row in buffer if (key := (row.task_id, row.edit_index)) in edits])
        for name, options in tried.items():
            pl_module.print(f"Round {round_index}: {name}: {_shown(options, kept.get(name, Counter()))}")
        if trainer.logger is not None and tried:
            metrics = {f"choices/{name}={o}/tried": s for name, options in tried.items() for o, s in _shares(options)}
            for name, options in tried.items():
                metrics |= {f"choices/{name}={o}/kept": 0.0 for o in options}
            metrics |= {f"choices/{name}={o}/kept": s for name, options in kept.items() for o, s in _shares(options)}
            trainer.logger.log_metrics(metrics, step=round_index)


def choice_counts(edits: Sequence[SelfEdit]) -> dict[str, Counter[str]]:
    """By choice, how often each option was taken; of edits whose choices the policy made."""
    counts: dict[str, Counter[str]] = {}
    for edit in edits:
        if edit.log_prob is not None:
            for name, option in edit.directives.items():
                counts.setdefault(name, Counter())[str(option).strip()] += 1
    return counts


def _shares(options: Counter[str]) -> list[tuple[str, float]]:
    return [(option, count / options.total()) for option, count in options.items()]


def _shown(tried: Counter[str], kept: Counter[str]) -> str:
    return ", ".join(f"{option} kept {kept[option]} of {count}" for option, count in tried.most_common())
