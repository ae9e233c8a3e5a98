"""A paired permutation test: how often differences as large come about when each one's sign is a matter of chance.

No distribution is assumed. Small enough for the standard library: sums come from tables of eight signs at a time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

MAX_EXACT = 16
"""Differences up to which every choice of signs is counted; 2¹⁶ of them."""
NUM_DRAWS = 10_000
_ROUNDING = 1e-9
"""Relative: the observed sum must count as being as large as itself."""


@dataclass(frozen=True, kw_only=True)
class FlipTest:
    """What the test found."""

    p_value: float
    """Two-sided, in (0, 1]."""
    num_signs: int
    """Choices of signs that were counted."""
    is_exact: bool


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> FlipTest:
    """Test that the differences' mean is zero.

    Args:
        differences: at least one, of independent pairs.
        seed: of the draws, where there are too many signs to count them all; the observed ones count as one more draw, so p
            is never 0.
    """
    if not differences:
        raise ValueError("there is no difference to test")
    observed = abs(math.fsum(differences))
    least = observed - _ROUNDING * math.fsum(map(abs, differences))
    if len(differences) <= MAX_EXACT:
        sums = _subset_sums(differences)
        total = sums[-1]
        as_large = sum(abs(total - 2 * flipped) >= least for flipped in sums)
        return FlipTest(p_value=as_large / len(sums), num_signs=len(sums), is_exact=True)
    as_large = 1 + sum(abs(drawn) >= least for drawn in _drawn_sums(differences, seed))
    return FlipTest(p_value=as_large / (NUM_DRAWS + 1), num_signs=NUM_DRAWS, is_exact=False)


def _subset_sums(values: Sequence[float]) -> list[float]:
    """The sum of each subset; subset b holds the values whose bits are set in b."""
    sums = [0.0]
    for value in values:
        sums += [before + value for before in sums]
    return sums


def _drawn_sums(differences: Sequence[float], seed: int) -> list[float]:
    tables = [_subset_sums(differences[i : i + 8]) for i in range(0, len(differences), 8)]
    total = math.fsum(table[-1] for table in tables)
    generator = random.Random(seed)  # noqa: S311  # nosec B311 - a test, no secret
    sums = []
    for _ in range(NUM_DRAWS):
        bits = generator.randbytes(len(tables))
        flipped = sum(table[byte & (len(table) - 1)] for table, byte in zip(tables, bits, strict=True))
        sums.append(total - 2 * flipped)
    return sums
