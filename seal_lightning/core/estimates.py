"""Means with standard errors, clustered by task or sequence. No torch: reports start at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its standard error (sample standard deviation / √n; None for n < 2).

    The n units are what was learned independently: tasks, or sequences of tasks that are learned one after another.
    """

    mean: float
    standard_error: float | None = None
    n: int = 1


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return mean and standard error of values; None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean=mean, standard_error=None, n=1)
    error = math.hypot(*(value - mean for value in values)) / math.sqrt((n - 1) * n)
    return Estimate(mean=mean, standard_error=error, n=n)


def clustered(pairs: Iterable[tuple[K, float]]) -> Estimate | None:
    """Return the estimate over clusters (tasks) of their means, because scores on one task are not independent."""
    return estimate(list(cluster_means(pairs).values()))


def cluster_means(pairs: Iterable[tuple[K, float]]) -> dict[K, float]:
    """Return the mean of each cluster, in the order in which clusters first occur."""
    found: dict[K, list[float]] = {}
    for cluster, value in pairs:
        found.setdefault(cluster, []).append(value)
    return {cluster: math.fsum(values) / len(values) for cluster, values in found.items()}


def ratio_of_sums(pairs: Mapping[K, tuple[float, float]]) -> Estimate | None:
    """Return Σ numerators / Σ denominators over clusters, with the jackknife's standard error (leave one cluster out).

    None unless the denominators' mean is more than two of its standard errors above zero.
    """
    denominator = estimate([below for _, below in pairs.values()])
    if denominator is None or denominator.standard_error is None or denominator.mean <= 2 * denominator.standard_error:
        return None
    above, below = (math.fsum(column) for column in zip(*pairs.values(), strict=True))
    without = [(above - a) / (below - b) for a, b in pairs.values() if below != b]
    if len(without) < len(pairs):
        return None  # one cluster alone makes up the denominator
    center = math.fsum(without) / len(without)
    error = math.hypot(*(value - center for value in without)) * math.sqrt((len(pairs) - 1) / len(pairs))
    return Estimate(mean=above / below, standard_error=error, n=len(pairs))


def shown_estimate(value: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return ``mean ± standard error``; a dash where nothing was measured."""
    if value is None:
        return "–"
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}f}"
    return f"{value.mean:{'+' if signed else ''}.{digits}f}{error}"
