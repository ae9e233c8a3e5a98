"""Texts that hold a model to what it says elsewhere while it learns: it wrote them itself, before.

No data is needed for it: what the model writes behind a few openings stands for what it knows, and the KL anchor of the inner
loop keeps its distribution on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seal_lightning.adapt.spec import AdaptSpec
from seal_lightning.core import (
    AdaptationPlan,
    AnchorSpec,
    GenerationRequest,
    SamplingSpec,
    Segment,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.seeds import derive_seed
from seal_lightning.storage.journal import RecordFile
from seal_lightning.training.module import SealModule

OPENINGS = ("Question:", "The")
ANCHOR_TOKENS = 48
"""Of a text, at most."""
_SAMPLING = SamplingSpec(temperature=1.0, top_p=0.95, max_new_tokens=ANCHOR_TOKENS)
_TEXTS_A_STEP = 4
TOKENS_A_STEP = _TEXTS_A_STEP * _SAMPLING.max_new_tokens
"""Of the anchor, at most."""


@dataclass(frozen=True, kw_only=True)
class AnchorText:
    """One such text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Anchoring:
    """The anchor of everything that is learned for good; without texts there is none."""

    texts: tuple[str, ...]
    weight: float

    def __call__(self, plan: AdaptationPlan) -> AdaptationPlan:
        """The plan with the anchor; one that has its own keeps it."""
        if not self.texts or plan.anchor is not None:
            return plan
        sequences = tuple(TrainingSequence(segments=(Segment(text=text),)) for text in self.texts)
        return replace(
            plan,
            anchor=AnchorSpec(sequences=sequences, weight=self.weight, batch_size=min(_TEXTS_A_STEP, len(sequences))),
        )


def anchoring(module: SealModule, spec: AdaptSpec, stored: RecordFile[AnchorText]) -> Anchoring:
    """The texts that were stored, or new ones by the model as it is now.

    Raises :class:`ConfigError` for an inner loop that holds to no anchor.
    """
    if not spec.anchor_weight:
        return Anchoring(texts=(), weight=0.0)
    if not module.inner_loop.uses_anchor:
        raise ConfigError(
            f"adapt.anchor_weight: {spec.anchor_weight} is not allowed with {type(module.inner_loop).__name__}, which holds "
            "to no anchor; set it to 0, or take seal_lightning.inner_loop.BatchedInnerLoop"
        )
    if not (found := stored.read()):
        found = _written(module, spec.anchor_texts)
        stored.write(found)
    return Anchoring(texts=tuple(one.text for one in found), weight=spec.anchor_weight)


def _written(module: SealModule, num_texts: int) -> list[AnchorText]:
    openings = [OPENINGS[number % len(OPENINGS)] for number in range(num_texts)]
    requests = [
        GenerationRequest(prompt=opening, sampling=_SAMPLING, seed=derive_seed(module.seed, "anchor", number))
        for number, opening in enumerate(openings)
    ]
    written = module.engine.generate(requests)
    return [AnchorText(text=f"{opening}{one.text}") for opening, one in zip(openings, written, strict=True)]
