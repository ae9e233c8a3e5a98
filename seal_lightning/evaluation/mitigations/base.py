"""What every measure against forgetting is: it may change a step's plan, and what is merged of the step's update."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdaptationPlan, Adapter, Task, TrainingSequence
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.language_model import LanguageModel

Past = Sequence[TrainingSequence]
"""What the earlier steps of an episode trained on and merged, oldest first; no text twice."""


@dataclass(frozen=True, kw_only=True)
class MergeDecision:
    """What a gate made of a step's update."""

    factor: float
    """In [0, 1], of the update that was merged; 0: refused."""
    probe_loss: float | None
    """What the probe's texts lost by it, nats a token in the mean (of a refused one: by the smallest that was tried). None
    where that is not finite."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What is to be merged."""

    adapter: Adapter | None
    """None: nothing."""
    decision: MergeDecision | None = None


class Mitigation(Configurable):
    """Does nothing; a subclass overrides what it changes. It keeps no state of an episode: one serves all of them."""

    decides = False
    """Whether it judges what is merged by what the update does, so that nothing may change the update behind it."""

    anchors = False
    """Whether it gives a plan its anchor, which there is one of."""

    def bind(self, runner: AttemptRunner, learner: LanguageModel) -> None:
        """Called once, before anything is computed.

        Raises :class:`ConfigError` or :class:`DataError` where it cannot work with these.
        """

    def check(self, learned: Sequence[Task]) -> None:
        """Called before anything is computed, with the tasks that will be learned. Raises :class:`DataError`."""

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
    """What an object was made with, as JSON; without what it found since (a source's skipped records)."""
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
