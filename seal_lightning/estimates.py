"""Means with standard errors, and how they are written. No torch: reports start at once."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its standard error (sample standard deviation / √n; None for n < 2) over what was learned apart: tasks,
    or where tasks are learned after one another, sequences of them."""

    mean: float
    standard_error: float | None = None
    n: int = 1


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error of values; None of none."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean=mean, standard_error=None, n=1)
    error = math.hypot(*(value - mean for value in values)) / math.sqrt((n - 1) * n)
    return Estimate(mean=mean, standard_error=error, n=n)


def clustered(pairs: Iterable[tuple[K, float]]) -> Estimate | None:
    """Over clusters (tasks): each one's own mean first, because what is measured on one task hangs together."""
    return estimate(list(cluster_means(pairs).values()))


def cluster_means(pairs: Iterable[tuple[K, float]]) -> dict[K, float]:
    """The mean of each cluster, in the order in which clusters first come."""
    found: dict[K, list[float]] = {}
    for cluster, value in pairs:
        found.setdefault(cluster, []).append(value)
    return {cluster: math.fsum(values) / len(values) for cluster, values in found.items()}


def shown_estimate(value: Estimate | None, digits: int = 3, *, signed: bool = False) -> str:
    """``mean ± standard error``; a dash where nothing was measured."""
    if value is None:
        return "–"
    error = "" if value.standard_error is None else f" ± {value.standard_error:.{digits}f}"
    return f"{value.mean:{'+' if signed else ''}.{digits}f}{error}"
