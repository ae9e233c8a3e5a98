"""What ``seal adapt`` is told beside the model's own settings: the ``adapt`` part of its configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import ConfigError

_LEAST = {"passage_tokens": 16, "num_questions": 2, "question_retries": 0, "keep": 0, "max_rank": 1, "anchor_texts": 1}
_MOST = {"num_questions": 100, "question_retries": 100}


@dataclass(frozen=True, kw_only=True)
class AdaptSpec:
    """How documents become part of a model. Raises :class:`ConfigError` for what is out of bounds."""

    passage_tokens: int = 200
    """≥ 16, tokens of a passage at most."""
    num_questions: int = 6
    """2 to 100, asked of the model on each passage; half of them choose its edits, half examine what was learned."""
    question_retries: int = 1
    """0 to 100, how often a passage with fewer questions is asked again."""
    question_sampling: SamplingSpec = SamplingSpec(temperature=0.3, top_p=0.95, max_new_tokens=256)  # noqa: RUF009
    """How questions are sampled."""
    keep: int = 1
    """≥ 0, edits of a passage that are learned at most. An edit must beat the passage alone at as many steps; with 0 none is
    written, and the passages alone are learned."""
    anchor_weight: float = 1.0
    """≥ 0, of the KL divergence from what the model said before, on texts that it wrote itself, in what is learned for good;
    0 has no anchor."""
    anchor_texts: int = 32
    """≥ 1, such texts."""
    control: bool = True
    """Whether the passages alone are learned too, for as many steps, to be compared with."""
    answers: bool = True
    """Whether exams generate answers beside the likelihood of the right ones: accuracies, for most of an exam's time."""
    max_rank: int = 256
    """≥ 1, of the adapter that is written: where updates together have a higher rank, they are cut to the nearest of this."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value, most = getattr(self, name), _MOST.get(name)
            if value < least or (most is not None and value > most):
                allowed = f"at least {least}" if most is None else f"from {least} to {most}"
                raise ConfigError(f"adapt.{name}: {value} is not allowed; it must be {allowed}")
        if not 0 <= self.anchor_weight < math.inf:
            raise ConfigError(
                f"adapt.anchor_weight: {self.anchor_weight} is not allowed; it must be finite, at least 0"
            )
