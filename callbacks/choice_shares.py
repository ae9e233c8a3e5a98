"""The options that a round's edits chose, and the shares that were kept; for edits written by constrained decoding."""

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

    The step of the charts is the round. Where selection works, the two shares differ, and options that were kept are tried
    more often in the next round.

    Example:
        >>> edit = SelfEdit(task_id="a", edit_index=0, text="", directives={"epochs": "2"}, log_prob=-0.7)
        >>> choice_counts([edit, edit])
        {'epochs': Counter({'2': 2})}
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
        metrics: dict[str, float] = {}
        for name, options in tried.items():
            kept_of = kept.get(name, Counter())
            shown = ", ".join(f"{option} kept {kept_of[option]} of {count}" for option, count in options.most_common())
            pl_module.print(f"Round {round_index}: {name}: {shown}")
            for option, count in options.items():
                metrics[f"choices/{name}={option}/tried"] = count / options.total()
                metrics[f"choices/{name}={option}/kept"] = kept_of[option] / max(kept_of.total(), 1)
        if trainer.logger is not None and tried:
            trainer.logger.log_metrics(metrics, step=round_index)


def choice_counts(edits: Sequence[SelfEdit]) -> dict[str, Counter[str]]:
    """Return, by choice, the number of edits per option; edits whose choices the policy did not make are skipped."""
    counts: dict[str, Counter[str]] = {}
    for edit in edits:
        if edit.log_prob is not None:
            for name, option in edit.directives.items():
                counts.setdefault(name, Counter())[str(option).strip()] += 1
    return counts
