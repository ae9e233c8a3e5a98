"""From the answers of many views to two attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from seal_lightning.domains.arc.grids import Grid

NUM_ATTEMPTS = 2
"""ARC allows two attempts a test input."""


def vote(grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """The most frequent grids, at most two, the first one first; of equally frequent ones that whose view came first.

    A plain majority. The released code's last count is in how many transforms a grid occurs, by which it misses strict
    winners.
    """
    votes = Counter(grids)  # in the order of first occurrence, and the sort is stable
    return tuple(grid for grid, _ in votes.most_common(NUM_ATTEMPTS))
