"""What every reward does with numbers that were not measured or are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from seal_lightning.core import ExamScores, RewardScore


def finite_score(value: float | None, breakdown: Mapping[str, float | None]) -> RewardScore:
    """A reward score of finite numbers only.

    Args:
        value: The reward; None, NaN or an infinity becomes None, "could not be scored".
        breakdown: What the reward is made of; what is None, NaN or infinite is left out.
    """
    finite = {name: part for name, part in breakdown.items() if part is not None and math.isfinite(part)}
    return RewardScore(value=value if value is not None and math.isfinite(value) else None, breakdown=finite)


def score_of_answers(
    value: float | None, breakdown: Mapping[str, float | None], after: ExamScores | None
) -> RewardScore:
    """As :func:`finite_score`; where graded answers give no value, with the reason why they were not scored."""
    score = finite_score(value, breakdown)
    return score if value is not None or after is None else replace(score, reason=after.unscored_reason)
