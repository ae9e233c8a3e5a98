"""One question asked of an adapted model and of its base model, under the same seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from seal_lightning.adapt.ask.models import AdaptedModels
from seal_lightning.adapt.ask.questions import AskedQuestion
from seal_lightning.adapt.ask.writing import never, unheard
from seal_lightning.core import SamplingSpec

Side = Literal["adapted", "unadapted"]
SIDES: tuple[Side, ...] = ("adapted", "unadapted")


@dataclass(frozen=True, kw_only=True)
class TimedAnswer:
    """What one of the two wrote."""

    text: str
    """Stripped, as an exam's answers are."""
    num_tokens: int
    finish_reason: str
    """``stop`` or ``length``."""
    seconds: float


Compared = Mapping[Side, TimedAnswer]


def compare(
    models: AdaptedModels,
    question: AskedQuestion,
    sampling: SamplingSpec,
    seed: int,
    sides: Sequence[Side] = SIDES,
) -> Compared:
    """The answers of the sides asked for. Raises what :meth:`AdaptedModels.answer` raises."""
    return {side: timed_answer(models, question, side, sampling, seed) for side in sides}


def timed_answer(
    models: AdaptedModels,
    question: AskedQuestion,
    side: Side,
    sampling: SamplingSpec,
    seed: int,
    tell: Callable[[str], None] = unheard,
    given_up: Callable[[], bool] = never,
) -> TimedAnswer:
    """The answer of one side: of the first adapter, or of the base model. See :meth:`AdaptedModels.answer`."""
    started = time.perf_counter()
    adapter = next(iter(models.adapters)) if side == "adapted" else None
    completion = models.answer(question, adapter, sampling, seed=seed, tell=tell, given_up=given_up)
    return TimedAnswer(
        text=completion.text.strip(),
        num_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason.value,
        seconds=time.perf_counter() - started,
    )
