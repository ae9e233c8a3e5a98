"""Replay (rehearsal): texts of earlier steps are trained on again, beside a step's own."""

from __future__ import annotations

from dataclasses import replace

from seal_lightning.core import AdaptationPlan
from seal_lightning.evaluation.mitigations.base import Mitigation, Past, check, drawn


class Replay(Mitigation):
    """Mixes training sequences of earlier steps into each step's, drawn anew for each step.

    Args:
        num_sequences: ≥ 1, how many; where the earlier steps have fewer, all of them.
        share: in (0, 1), instead of ``num_sequences``: which share of the step's training set is replayed, as far as the
            earlier steps have so many. With neither, all earlier sequences are replayed.
        equal_steps: whether a step takes as many optimiser steps and epochs as without replay, the sequences spread evenly
            over larger batches, so that a comparison is not won by more steps. Otherwise batches stay and steps grow.
    """

    def __init__(self, num_sequences: int | None = None, share: float | None = None, equal_steps: bool = True) -> None:
        check(num_sequences is None or num_sequences >= 1, "Replay.num_sequences", num_sequences, "at least 1, or null")
        check(share is None or 0 < share < 1, "Replay.share", share, "in (0, 1), or null")
        check(num_sequences is None or share is None, "Replay.share", share, "null where num_sequences is set")
        self.num_sequences = num_sequences
        self.share = share
        self.equal_steps = equal_steps

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """With replayed sequences behind its own; what it has itself is not replayed."""
        own = len(plan.sequences)
        wanted = self.num_sequences if self.share is None else max(1, round(own * self.share / (1 - self.share)))
        replayed = drawn([text for text in past if text not in plan.sequences], wanted, seed)
        if not replayed:
            return plan
        steps = plan.num_batches(own) if self.equal_steps else plan.steps_per_epoch
        return replace(plan, sequences=(*plan.sequences, *replayed), steps_per_epoch=steps)
