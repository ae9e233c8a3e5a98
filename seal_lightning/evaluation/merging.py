"""An episode's merges: each step's update becomes the model's own, as far as what is done against forgetting lets it."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import AdaptationPlan, Adapter, TrainingSequence
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.mitigations import MergeDecision, Mitigation, Proposal
from seal_lightning.inner_loop.whole_weights import merge
from seal_lightning.models.language_model import LanguageModel


class Merging:
    """What one episode merged so far, under one condition.

    Args:
        learner: the model that merges.
        mitigations: in the order in which they are asked.
    """

    def __init__(self, learner: LanguageModel, mitigations: Sequence[Mitigation]) -> None:
        self.learner = learner
        self.mitigations = mitigations
        self.past: list[TrainingSequence] = []
        """What was trained on and merged, oldest first; what was replayed is not there twice."""
        self.merged: Adapter | None = None
        """The update that the last :meth:`merge` made the model's own; None where it was refused."""

    def prepared(self, plan: AdaptationPlan, seed: int) -> AdaptationPlan:
        """A step's plan with what is done against forgetting while it is learned."""
        for place, mitigation in enumerate(self.mitigations):
            plan = mitigation.plan(plan, tuple(self.past), derive_seed(seed, "against forgetting", place))
        return plan

    def merge(self, plan: AdaptationPlan, adapter: Adapter) -> MergeDecision | None:
        """Make a step's update the model's own, as far as it is let; ``plan`` is what it was trained on.

        Returns what a gate decided; None where there is no gate.
        """
        proposal = Proposal(adapter=adapter)
        for mitigation in self.mitigations:
            if proposal.adapter is not None:
                proposal = mitigation.merging(proposal, tuple(self.past))
        if proposal.adapter is not None:
            merge(self.learner, proposal.adapter)
            self._remember(plan)
        self.merged = proposal.adapter
        return proposal.decision

    def merge_again(self, plan: AdaptationPlan, adapter: Adapter) -> None:
        """Repeat a merge that was let before."""
        merge(self.learner, adapter)
        self._remember(plan)

    def _remember(self, plan: AdaptationPlan) -> None:
        self.past = list(dict.fromkeys((*self.past, *plan.sequences)))
