"""What every reward does with numbers that were not measured or are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

from seal_lightning.types import RewardScore


def finite_score(value: float | None, breakdown: Mapping[str, float | None]) -> RewardScore:
    """A reward score of finite numbers only.

    Args:
        value: The reward; None, NaN or an infinity becomes None, "could not be scored".
        breakdown: What the reward is made of; what is None, NaN or infinite is left out.
    """
    finite = {name: part for name, part in breakdown.items() if part is not None and math.isfinite(part)}
    return RewardScore(value=value if value is not None and math.isfinite(value) else None, breakdown=finite)
