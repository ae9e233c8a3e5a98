"""An episode's merges: each step's update becomes the model's own, as far as the mitigations allow."""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import AdaptationPlan, Adapter, TrainingSequence
from seal_lightning.core.evaluation_records import MergeDecision
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.mitigations import MergeProposal, Mitigation
from seal_lightning.inner_loop.whole_weights import merge
from seal_lightning.models.language_model import LanguageModel


class Merging:
    """The merges of one episode under one condition.

    Args:
        learner: the model that merges.
        mitigations: in the order in which they are applied.
    """

    def __init__(self, learner: LanguageModel, mitigations: Sequence[Mitigation]) -> None:
        self.learner = learner
        self.mitigations = mitigations
        self.past: list[TrainingSequence] = []
        """What was trained on and merged, oldest first; replayed sequences occur once."""
        self.merged: Adapter | None = None
        """The update of the last :meth:`merge`; None where it was refused."""

    def prepared(self, plan: AdaptationPlan, seed: int) -> AdaptationPlan:
        """Return a step's plan with the changes of the mitigations."""
        for i, mitigation in enumerate(self.mitigations):
            plan = mitigation.plan(plan, tuple(self.past), derive_seed(seed, "against forgetting", i))
        return plan

    def merge(self, plan: AdaptationPlan, adapter: Adapter) -> MergeDecision | None:
        """Merge a step's update as far as the mitigations allow; ``plan`` is what it was trained on.

        Returns the gate's decision; None without a gate.
        """
        proposal = MergeProposal(adapter=adapter)
        for mitigation in self.mitigations:
            if proposal.adapter is not None:
                proposal = mitigation.merging(proposal, tuple(self.past))
        if proposal.adapter is not None:
            self.merge_again(plan, proposal.adapter)
        self.merged = proposal.adapter
        return proposal.decision

    def merge_again(self, plan: AdaptationPlan, adapter: Adapter) -> None:
        """Repeat a merge that was allowed before."""
        merge(self.learner, adapter)
        self.past = list(dict.fromkeys((*self.past, *plan.sequences)))
