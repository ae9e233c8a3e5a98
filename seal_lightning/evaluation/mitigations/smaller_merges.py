"""Merges of less than the whole update: scaled, or of lower rank."""

from __future__ import annotations

from dataclasses import replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.evaluation.mitigations.base import Mitigation, Past, Proposal, check
from seal_lightning.inner_loop.updates import scaled, truncated
from seal_lightning.models.language_model import LanguageModel


class ScaledMerge(Mitigation):
    """Merges a fixed share of each step's update.

    Args:
        factor: in (0, 1].
    """

    def __init__(self, factor: float = 0.5) -> None:
        check(0 < factor <= 1, "ScaledMerge.factor", factor, "in (0, 1]")
        self.factor = factor

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """The model that updates are of."""
        self._learner = learner

    def merging(self, proposal: Proposal, past: Past) -> Proposal:
        """The update, scaled."""
        assert proposal.adapter is not None
        return replace(proposal, adapter=scaled(self._learner, proposal.adapter, self.factor))


class LowRankMerge(Mitigation):
    """Merges of each weight matrix's update the nearest one of a lower rank: its strongest directions.

    Args:
        rank: ≥ 1; at or above the adapter's rank nothing changes.
    """

    def __init__(self, rank: int = 4) -> None:
        check(rank >= 1, "LowRankMerge.rank", rank, "at least 1")
        self.rank = rank

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """The model that updates are of."""
        self._learner = learner

    def merging(self, proposal: Proposal, past: Past) -> Proposal:
        """The update, truncated."""
        assert proposal.adapter is not None
        return replace(proposal, adapter=truncated(self._learner, proposal.adapter, self.rank))
