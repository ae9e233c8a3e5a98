"""What an ARC self-edit says (§4.2): which augmentations to make, which tokens to train on, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from seal_lightning.core.errors import require
from seal_lightning.domains.arc.augmenters import MENU

Loss = Literal["all_tokens", "last_output", "all_outputs"]
"""Which tokens of a training puzzle count: all; its held-out output; all outputs (not in the paper)."""


@dataclass(frozen=True, kw_only=True)
class ArcDirectives:
    """Update directives of a self-edit, or of a fixed test-time-training configuration."""

    augmentations: tuple[str, ...] = ()
    """Groups of the menu, see :data:`seal_lightning.domains.arc.augmenters.MENU`."""
    loss: Loss = "last_output"
    learning_rate: float = 1e-4
    """> 0"""
    num_epochs: int = 2
    """≥ 1"""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        known, rate = {*self.augmentations} <= {*MENU}, self.learning_rate
        require(known, "without_edit.augmentations", self.augmentations, f"some of {', '.join(MENU)}")
        require(0 < rate < math.inf, "without_edit.learning_rate", rate, "above 0 and finite")
        require(self.num_epochs >= 1, "without_edit.num_epochs", self.num_epochs, "at least 1")
