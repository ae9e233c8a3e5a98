"""Learning-rate schedules: those of transformers' trainer, as functions of the step."""

from __future__ import annotations

import math

from seal_lightning.core import OptimizerSpec


def learning_rate_factor(spec: OptimizerSpec, step: int, num_steps: int) -> float:
    """What the peak learning rate is multiplied by at ``step`` (from 0) of ``num_steps``; in [0, 1].

    A single step is not warmed up: transformers' factor of it is 0, and nothing would be learned.
    """
    warmup = spec.warmup_steps or math.ceil(spec.warmup_ratio * num_steps)
    if num_steps == 1:
        return 1.0
    if step < warmup:
        return step / warmup
    if spec.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, num_steps - warmup)
    if spec.schedule == "linear":
        return max(0.0, 1.0 - progress)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
