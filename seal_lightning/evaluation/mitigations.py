"""Mitigations of forgetting where edits are merged one after another: replay, a KL anchor, smaller merges and a merge gate.

Each changes a step's plan, or what is merged of the step's update; they compose.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdaptationPlan, Adapter, AnchorSpec, Task, TrainingSequence
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError, DataError, MalformedEdit, shown
from seal_lightning.core.evaluation_records import MergeDecision
from seal_lightning.core.interfaces import AnyDomain, TaskSource
from seal_lightning.core.seeds import derive_seed
from seal_lightning.inner_loop.likelihoods import mean_log_probs
from seal_lightning.inner_loop.whole_weights import scaled, truncated
from seal_lightning.models.language_model import LanguageModel

_logger = logging.getLogger(__name__)

Past = Sequence[TrainingSequence]
"""What earlier steps of an episode trained on and merged, oldest first; no text twice."""


@dataclass(frozen=True, kw_only=True)
class MergeProposal:
    """The update that is to be merged."""

    adapter: Adapter | None
    """None: nothing."""
    decision: MergeDecision | None = None


class Mitigation(Configurable):
    """The base class; it changes nothing. It keeps no state of an episode: one instance serves all of them.

    Example:
        >>> from dataclasses import replace
        >>> from seal_lightning.evaluation import Mitigation
        >>> class FewerEpochs(Mitigation):
        ...     '''Trains later steps for one epoch.'''
        ...
        ...     def plan(self, plan, past, seed):
        ...         return replace(plan, optimizer=replace(plan.optimizer, num_epochs=1)) if past else plan
        >>> FewerEpochs().settings
        {'class': 'FewerEpochs'}
    """

    decides = False
    """Whether it decides on the merge by what the update does, so that nothing may change the update afterwards."""

    anchors = False
    """Whether it sets a plan's anchor; a plan has only one."""

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Prepare for these parts; called once, before anything is computed.

        Raises :class:`ConfigError` or :class:`DataError` where it cannot work with them.
        """

    def check(self, learned: Sequence[Task]) -> None:
        """Check the tasks that will be learned, before anything is computed. Raises :class:`DataError`."""

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """Return the step's plan, changed."""
        return plan

    def merging(self, proposal: MergeProposal, past: Past) -> MergeProposal:
        """Return what is merged, changed; called while there is something to merge, with the model as before the step."""
        return proposal

    @property
    def settings(self) -> dict[str, Any]:
        """Class and settings, as results store them."""
        return {"class": type(self).__name__, **_plain(self)}


class Replay(Mitigation):
    """Rehearsal: mixes training sequences of earlier steps into each step's, drawn anew for each step.

    Args:
        num_sequences: ≥ 1, how many; where the earlier steps have fewer, all of them.
        share: in (0, 1), instead of ``num_sequences``: the replayed share of the step's training set, as far as the earlier
            steps have so many. With neither, all earlier sequences are replayed.
        equal_steps: whether a step takes as many optimiser steps and epochs as without replay, the sequences spread evenly
            over larger batches, so that a comparison is not won by more steps. Otherwise batches stay and steps grow.

    Example:
        >>> from seal_lightning.evaluation import Replay
        >>> Replay(share=0.25).settings
        {'class': 'Replay', 'share': 0.25, 'equal_steps': True}
    """

    def __init__(self, num_sequences: int | None = None, share: float | None = None, equal_steps: bool = True) -> None:
        _check(
            num_sequences is None or num_sequences >= 1, "Replay.num_sequences", num_sequences, "at least 1, or null"
        )
        _check(share is None or 0 < share < 1, "Replay.share", share, "in (0, 1), or null")
        _check(num_sequences is None or share is None, "Replay.share", share, "null where num_sequences is set")
        self.num_sequences = num_sequences
        self.share = share
        self.equal_steps = equal_steps

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """Append replayed sequences to the step's own; a sequence that it has itself is not replayed."""
        own = len(plan.sequences)
        wanted = self.num_sequences if self.share is None else max(1, round(own * self.share / (1 - self.share)))
        replayed = _drawn([text for text in past if text not in plan.sequences], wanted, seed)
        if not replayed:
            return plan
        steps = plan.num_batches(own) if self.equal_steps else plan.steps_per_epoch
        return replace(plan, sequences=(*plan.sequences, *replayed), steps_per_epoch=steps)


class _KeepsTexts(Mitigation):
    """A mitigation that preserves texts: those of earlier steps, and contexts of further tasks, whose questions are unused.

    Args:
        earlier: whether texts of earlier steps are preserved; the first step has none.
        texts: tasks whose contexts are preserved from the first step on.
    """

    def __init__(self, earlier: bool, texts: TaskSource | None) -> None:
        _check(earlier or texts is not None, f"{type(self).__name__}.earlier", earlier, "true where texts is null")
        self.earlier = earlier
        self.texts = texts
        self._fixed: tuple[TrainingSequence, ...] = ()

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Read the further texts."""
        self._learner = learner
        self._fixed = _context_texts(runner.domain, self.texts)

    def check(self, learned: Sequence[Task]) -> None:
        """Refuse further texts that are learned too: a model held to its past on them learns nothing."""
        source = self.texts
        both = sorted({t.task_id for t in source.load()} & {t.task_id for t in learned}) if source else []
        if both:
            raise DataError(
                f"against_forgetting: texts ({type(source).__name__}) has {len(both)} tasks that the test learns too, such "
                f"as {shown(both[0])}; they must not overlap. Take another split or file for one of them"
            )


class KLAnchor(_KeepsTexts):
    """Adds weight · KL(previous model ‖ adapted model), in nats per token, to each optimiser step's loss.

    Args:
        weight: > 0.
        num_sequences: ≥ 1, how many sequences of earlier steps are anchor texts, drawn anew for each step; None takes all.
        earlier: whether sequences of earlier steps are anchor texts; the first step has none.
        texts: tasks whose contexts are anchor texts in every step, from the first on.
        batch_size: ≥ 1, anchor texts per optimiser step, in turn; None takes all of them in every one.

    Example:
        >>> from seal_lightning.evaluation import KLAnchor
        >>> KLAnchor(weight=0.5, num_sequences=4).settings
        {'class': 'KLAnchor', 'earlier': True, 'weight': 0.5, 'num_sequences': 4}
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
        super().__init__(earlier, texts)
        _check(0 < weight < math.inf, "KLAnchor.weight", weight, "above 0 and finite")
        for name, value in (("num_sequences", num_sequences), ("batch_size", batch_size)):
            _check(value is None or value >= 1, f"KLAnchor.{name}", value, "at least 1, or null")
        self.weight = weight
        self.num_sequences = num_sequences
        self.batch_size = batch_size

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Read the fixed texts. Raises :class:`ConfigError` for an inner loop or a model without anchors."""
        if not runner.inner_loop.uses_anchor:
            raise ConfigError(
                f"model.inner_loop: {type(runner.inner_loop).__name__} ignores a plan's anchor, so KLAnchor "
                "(model.protocol.init_args.against_forgetting) would do nothing. Remove KLAnchor, or take an inner loop with "
                "uses_anchor, such as seal_lightning.inner_loop.BatchedInnerLoop"
            )
        learner.packed.check_anchors()
        super().bind(runner, learner)

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """Set the plan's anchor, where there is a text for it."""
        texts = (*self._fixed, *(_drawn(past, self.num_sequences, seed) if self.earlier else ()))
        if not texts:
            return plan
        return replace(plan, anchor=AnchorSpec(sequences=texts, weight=self.weight, batch_size=self.batch_size))


class ScaledMerge(Mitigation):
    """Merges a fixed share of each step's update.

    Args:
        factor: in (0, 1].

    Example:
        >>> from seal_lightning.evaluation import ScaledMerge
        >>> ScaledMerge(factor=0.5).settings
        {'class': 'ScaledMerge', 'factor': 0.5}
    """

    def __init__(self, factor: float = 0.5) -> None:
        _check(0 < factor <= 1, "ScaledMerge.factor", factor, "in (0, 1]")
        self.factor = factor

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Take the model that the updates are of."""
        self._learner = learner

    def merging(self, proposal: MergeProposal, past: Past) -> MergeProposal:
        """Scale the update."""
        assert proposal.adapter is not None
        return replace(proposal, adapter=scaled(self._learner, proposal.adapter, self.factor))


class LowRankMerge(Mitigation):
    """Merges, for each weight matrix, the nearest update of a lower rank: its strongest directions.

    Args:
        rank: ≥ 1; at or above the adapter's rank nothing changes.

    Example:
        >>> from seal_lightning.evaluation import LowRankMerge
        >>> LowRankMerge(rank=2).settings
        {'class': 'LowRankMerge', 'rank': 2}
    """

    def __init__(self, rank: int = 4) -> None:
        _check(rank >= 1, "LowRankMerge.rank", rank, "at least 1")
        self.rank = rank

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Take the model that the updates are of."""
        self._learner = learner

    def merging(self, proposal: MergeProposal, past: Past) -> MergeProposal:
        """Truncate the update to the rank."""
        assert proposal.adapter is not None
        return replace(proposal, adapter=truncated(self._learner, proposal.adapter, self.rank))


class MergeGate(_KeepsTexts):
    """Merges the largest share of a step's update by which a probe loses less than ``max_loss``; else nothing of it.

    The probe is the likelihood of texts that earlier steps trained on, and of further texts; no question of a test is used.
    The limit holds for each merge, so K steps may lose K times as much.

    Args:
        max_loss: > 0, mean loss of the probe's texts that is allowed, nats per token.
        factors: in (0, 1), falling: the shares that are tried after the whole update; with none, all or nothing.
        earlier: whether texts of earlier steps are probed; the first step has none, and passes if nothing else is probed.
        texts: tasks whose contexts are probed from the first step on.

    Example:
        >>> from seal_lightning.evaluation import MergeGate
        >>> MergeGate(max_loss=0.05, factors=[0.5]).settings
        {'class': 'MergeGate', 'earlier': True, 'max_loss': 0.05, 'factors': [0.5]}
    """

    decides = True

    def __init__(
        self,
        max_loss: float = 0.1,
        factors: Sequence[float] = (0.5, 0.25),
        earlier: bool = True,
        texts: TaskSource | None = None,
    ) -> None:
        super().__init__(earlier, texts)
        falling = all(0 < after < before for before, after in pairwise([1.0, *factors]))
        _check(0 < max_loss < math.inf, "MergeGate.max_loss", max_loss, "above 0 and finite")
        _check(falling, "MergeGate.factors", list(factors), "falling numbers in (0, 1), or an empty list")
        self.max_loss = max_loss
        self.factors = tuple(factors)

    def merging(self, proposal: MergeProposal, past: Past) -> MergeProposal:
        """Return the update, a share of it, or nothing, with the decision; there is none without anything to probe."""
        assert proposal.adapter is not None
        texts = [*self._fixed, *(past if self.earlier else ())]
        before = mean_log_probs(self._learner, texts)
        if not before:
            return proposal
        loss = math.nan
        for factor in (1.0, *self.factors):
            adapter = proposal.adapter if factor == 1 else scaled(self._learner, proposal.adapter, factor)
            after = mean_log_probs(self._learner, texts, adapter)
            loss = math.fsum(b - a for b, a in zip(before, after, strict=True)) / len(before)
            if loss < self.max_loss:  # false for NaN
                return MergeProposal(adapter=adapter, decision=MergeDecision(factor=factor, probe_loss=loss))
        known = loss if math.isfinite(loss) else None
        return MergeProposal(adapter=None, decision=MergeDecision(factor=0.0, probe_loss=known))


def _context_texts(domain: AnyDomain, source: TaskSource | None) -> tuple[TrainingSequence, ...]:
    """Return the sequences that the tasks' contexts alone would be trained as; none without a source.

    Raises :class:`DataError` where the source cannot be read, or no context gives a training sequence.
    """
    if source is None:
        return ()
    tasks, name = source.load(), type(source).__name__
    found: list[TrainingSequence] = []
    empty = 0
    for task in tasks:
        try:
            found += domain.plan_without_edit(task).sequences
        except MalformedEdit:
            empty += 1
    if not found:
        raise DataError(
            f"against_forgetting: texts ({name}): none of its {len(tasks)} contexts gives a training sequence in "
            f"{type(domain).__name__}. Take other texts, or remove them"
        )
    if empty:
        _logger.warning("against_forgetting: %d of %d texts give no training sequence; skipped", empty, len(tasks))
    return tuple(dict.fromkeys(found))


def _drawn(texts: Sequence[TrainingSequence], num: int | None, seed: int) -> tuple[TrainingSequence, ...]:
    """Draw ``num`` of the texts, in their order; all of them for None or where there are not more."""
    if num is None or num >= len(texts):
        return tuple(texts)
    indices = random.Random(derive_seed(seed, "drawn")).sample(range(len(texts)), num)  # noqa: S311 - a sample, no secret
    return tuple(texts[i] for i in sorted(indices))


def _check(allowed: bool, name: str, value: object, what: str) -> None:
    """Raise :class:`ConfigError` unless ``allowed``; ``name`` is ``Class.field``."""
    if not allowed:
        raise ConfigError(
            f"model.protocol.init_args.against_forgetting: {name}: {shown(value)} is not allowed; it must be {what}"
        )


def _plain(thing: object) -> dict[str, Any]:
    """Return an object's constructor arguments as JSON, without state that it has found since."""
    if is_dataclass(thing):
        names = [one.name for one in fields(thing) if one.init]
    else:
        taken = inspect.signature(type(thing)).parameters
        names = [name for name in vars(thing) if name in taken]
    values = {name: getattr(thing, name) for name in names if not name.startswith("_")}
    return {name: _as_json(value) for name, value in values.items() if value is not None}


def _as_json(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_json(one) for one in value]
    if isinstance(value, Path) or not hasattr(value, "__dict__"):
        return str(value)
    return {"class": type(value).__name__, **_plain(value)}
