"""A merge gate: an update is merged only if texts learned earlier lose little by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import Adapter, Task, TrainingSequence
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.evaluation.mitigations.base import MergeDecision, Mitigation, Past, Proposal, check
from seal_lightning.evaluation.mitigations.probe_texts import check_apart, context_texts
from seal_lightning.inner_loop.likelihoods import mean_log_probs
from seal_lightning.inner_loop.updates import scaled
from seal_lightning.models.language_model import LanguageModel


class MergeGate(Mitigation):
    """Merges the largest share of a step's update by which a probe loses less than ``max_loss``; else nothing of it.

    The probe is the likelihood of texts that earlier steps trained on, and of further texts; no question of a test is asked.
    The limit is of each merge, so K steps may lose K times as much.

    Args:
        max_loss: > 0, nats a token that the probe's texts may lose, in their mean.
        factors: in (0, 1), falling: which shares of an update are tried after the whole of it; with none, all or nothing.
        earlier: whether texts of earlier steps are probed; the first step has none, and passes if nothing else is probed.
        texts: tasks whose contexts are probed from the first step on.
    """

    decides = True

    def __init__(
        self,
        max_loss: float = 0.1,
        factors: Sequence[float] = (0.5, 0.25),
        earlier: bool = True,
        texts: TaskSource | None = None,
    ) -> None:
        falling = all(0 < after < before for before, after in pairwise([1.0, *factors]))
        check(0 < max_loss < math.inf, "MergeGate.max_loss", max_loss, "above 0 and finite")
        check(falling, "MergeGate.factors", list(factors), "falling numbers in (0, 1), or an empty list")
        check(earlier or texts is not None, "MergeGate.earlier", earlier, "true where texts is null")
        self.max_loss = max_loss
        self.factors = tuple(factors)
        self.earlier = earlier
        self.texts = texts
        self._fixed: tuple[TrainingSequence, ...] = ()

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Read the further texts."""
        self._learner = learner
        self._fixed = context_texts(runner.domain, self.texts)

    def check(self, learned: Sequence[Task]) -> None:
        """Refuse further texts that are learned."""
        check_apart(self.texts, learned)

    def merging(self, proposal: Proposal, past: Past) -> Proposal:
        """The update, a share of it, or nothing; with the decision. None is taken where there is nothing to probe."""
        assert proposal.adapter is not None
        texts = [*self._fixed, *(past if self.earlier else ())]
        before = mean_log_probs(self._learner, texts)
        if not before:
            return proposal
        loss = math.nan
        for factor in (1.0, *self.factors):
            adapter = proposal.adapter if factor == 1 else scaled(self._learner, proposal.adapter, factor)
            loss = self._loss(adapter, texts, before)
            if loss < self.max_loss:  # false of a NaN
                return Proposal(adapter=adapter, decision=MergeDecision(factor=factor, probe_loss=loss))
        known = loss if math.isfinite(loss) else None
        return Proposal(adapter=None, decision=MergeDecision(factor=0.0, probe_loss=known))

    def _loss(self, adapter: Adapter, texts: Sequence[TrainingSequence], before: Sequence[float]) -> float:
        after = mean_log_probs(self._learner, texts, adapter)
        return math.fsum(b - a for b, a in zip(before, after, strict=True)) / len(before)
