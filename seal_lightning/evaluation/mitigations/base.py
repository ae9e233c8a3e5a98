"""What every measure against forgetting is: it may change a step's plan, and what is merged of the step's update."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seal_lightning.attempting import Attempting
from seal_lightning.errors import ConfigError, shown
from seal_lightning.language_model import LanguageModel
from seal_lightning.seeds import derive_seed
from seal_lightning.types import AdaptationPlan, Adapter, TrainingSequence

Past = Sequence[TrainingSequence]
"""What the earlier steps of an episode trained on and merged, oldest first; no text twice."""


@dataclass(frozen=True, kw_only=True)
class MergeDecision:
    """What a gate made of a step's update."""

    factor: float
    """In [0, 1], of the update that was merged; 0: refused."""
    probe_loss: float | None
    """What the probe's texts lost by it, nats a token in the mean (of a refused one: by the smallest that was tried). None
    where there was nothing to probe."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What is to be merged."""

    adapter: Adapter | None
    """None: nothing."""
    decision: MergeDecision | None = None


class Mitigation:
    """Does nothing; a subclass overrides what it changes. It keeps no state of an episode: one serves all of them."""

    decides = False
    """Whether it judges what is merged by what the update does, so that nothing may change the update behind it."""

    def bind(self, attempting: Attempting, learner: LanguageModel) -> None:
        """Called once, before anything is computed. Raises :class:`ConfigError` where it cannot work with these."""

    def plan(self, plan: AdaptationPlan, past: Past, seed: int) -> AdaptationPlan:
        """The step's plan, changed."""
        return plan

    def merging(self, proposal: Proposal, past: Past) -> Proposal:
        """What is merged, changed; asked only while there is something to merge. The model is still as before the step."""
        return proposal

    @property
    def settings(self) -> dict[str, Any]:
        """Class and settings for a reader of results."""
        return {"class": type(self).__name__, **_plain(self)}


def _plain(thing: object) -> dict[str, Any]:
    public = {name: value for name, value in vars(thing).items() if not name.startswith("_") and value is not None}
    return {
        name: list(value)
        if isinstance(value, tuple)
        else value
        if isinstance(value, (bool, int, float, str))
        else {"class": type(value).__name__, **_plain(value)}
        for name, value in public.items()
    }


def drawn(texts: Sequence[TrainingSequence], num: int | None, seed: int) -> tuple[TrainingSequence, ...]:
    """``num`` of the texts by chance, in their order; all of them for None or where there are no more."""
    if num is None or num >= len(texts):
        return tuple(texts)
    places = random.Random(derive_seed(seed, "drawn")).sample(range(len(texts)), num)  # noqa: S311 - a sample, no secret
    return tuple(texts[place] for place in sorted(places))


def check(allowed: bool, name: str, value: object, what: str) -> None:
    """Raise :class:`ConfigError` unless ``allowed``; ``name`` is ``Class.field``."""
    if not allowed:
        raise ConfigError(
            f"model.protocol.init_args.against_forgetting: {name}: {shown(value)} is not allowed; it must be {what}"
        )
