"""What a rank did in a phase, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RankPhase:
    """One rank in one E-step or M-step, since the phase began or was gone on with.

    Validation belongs to the M-step before it. Ranks that only hand another one their part of a sharded model are left out
    of E-steps.
    """

    rank: int
    host: str
    phase: Literal["e_step", "m_step"]
    seconds: float
    split: Mapping[str, float]
    """Seconds by activity (:data:`seal_lightning.distributed.timers.ACTIVITIES`, and ``other``); the sum is ``seconds``."""
    num_attempts: int = 0
    """Stored by this rank."""
    num_tokens: int = 0
    """Trained on in its inner loops, all epochs together."""
    gpu_memory_bytes: int | None = None
    """At the peak, of what torch allocated; None without a CUDA device."""
    gpu_utilisation: float | None = None
    """Per cent, the mean over samples at attempts and steps; None where it cannot be asked for (no ``nvidia-ml-py``)."""

    @property
    def busy_seconds(self) -> float:
        """All but waiting for other ranks."""
        return self.seconds - self.split.get("idle", 0.0)
