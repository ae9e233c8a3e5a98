"""A KL anchor: while a step is learned, the model is held to what it said before on texts it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdaptationPlan, AnchorSpec, Task, TrainingSequence
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.evaluation.mitigations.base import Mitigation, Past, check, drawn
from seal_lightning.evaluation.mitigations.probe_texts import check_apart, context_texts
from seal_lightning.models.language_model import LanguageModel


class KLAnchor(Mitigation):
    """Adds weight · KL(previous model ‖ adapted model), in nats a token, to each optimiser step's loss.

    Args:
        weight: > 0.
        num_sequences: ≥ 1, how many sequences of earlier steps are anchor texts, drawn anew for each step; None takes all.
        earlier: whether those are anchor texts at all; the first step has none.
        texts: tasks whose contexts are anchor texts in every step, from the first on.
        batch_size: ≥ 1, anchor texts an optimiser step, in turn; None takes all of them in every one.
    """

    anchors = True

    def __init__(
        self,
        weight: float = 1.0,
        num_sequences: int | None = 8,
        earlier: bool = True,
        texts: TaskSource | None = None,
        batch_size: int | None = None,
    ) -> None:
        check(0 < weight < float("inf"), "KLAnchor.weight", weight, "above 0 and finite")
        check(
            num_sequences is None or num_sequences >= 1, "KLAnchor.num_sequences", num_sequences, "at least 1, or null"
        )
        check(batch_size is None or batch_size >= 1, "KLAnchor.batch_size", batch_size, "at least 1, or null")
        check(earlier or texts is not None, "KLAnchor.earlier", earlier, "true where texts is null")
        self.weight = weight
        self.num_sequences = num_sequences
        self.earlier = earlier
        self.texts = texts
        self.batch_size = batch_size
        self._fixed: tuple[TrainingSequence, ...] = ()

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Read the fixed texts. Raises :class:`ConfigError` for an inner loop or a model that knows no anchor."""
        if not runner.inner_loop.uses_anchor:
            raise ConfigError(
                f"model.inner_loop: {type(runner.inner_loop).__name__} does not hold to a plan's anchor, so KLAnchor "
                "(model.protocol.init_args.against_forgetting) would do nothing. Leave KLAnchor out, or take an inner loop "
                "with uses_anchor, such as seal_lightning.inner_loop.BatchedInnerLoop"
            )
        learner.packed.check_anchors()
        self._fixed = context_texts(runner.domain, self.texts)

    def check(self, learned: Sequence[Task]) -> None:
        """Refuse fixed texts that are learned."""
        check_apart(self.texts, learned)

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """With an anchor, where there is a text for it."""
        texts = (*self._fixed, *(drawn(past, self.num_sequences, seed) if self.earlier else ()))
        if not texts:
            return plan
        anchor = AnchorSpec(sequences=texts, weight=self.weight, batch_size=self.batch_size)
        return replace(plan, anchor=anchor)
