"""Retention of what was learned after later steps, from an episode's matrix M of scores.

M[k, i] is the score of task i after k steps; row 0 is before any step. Task i is learned in step i + 1 of K.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from seal_lightning.core.estimates import Estimate, clustered, ratio_of_sums

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ForgettingCurve:
    """One task's scores along an episode."""

    sequence: Hashable
    """The episode; episodes are learned independently."""
    task: Hashable
    """The task; episodes that share tasks are not quite independent."""
    before: float
    """M[0, i]."""
    just_before: float | None = None
    """M[i, i], before its own step; None where it was not examined then, or its step was the first."""
    own: float
    """M[i + 1, i]."""
    last: float
    """M[K, i]."""
    is_first: bool
    """Whether its step was the first, before which nothing was learned: M[i, i] is M[0, i]."""
    followed: bool
    """Whether other steps follow its own."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Learning and forgetting over sequences; differences of log-probabilities are in nats. None where undefined.

    Where sequences share tasks, the standard error is the larger one of those over sequences and over tasks.
    """

    new_learning: Estimate | None
    """Mean of M[i+1, i] − M[0, i]."""
    retained_share: Estimate | None
    """Σ (M[K, i] − M[0, i]) / Σ (M[i+1, i] − M[0, i]) over i < K − 1; with the jackknife's standard error. None unless the
    denominator exceeds two standard errors, which a single sequence does not have."""
    transfer: Estimate | None
    """Mean of M[i, i] − M[0, i]: gained from other tasks' steps before its own."""
    specific_share: Estimate | None
    """As ``retained_share`` with M[i, i] for M[0, i]: how much is left of what the own step added. None where M[i, i] is
    known for the first step only."""


def retention(curves: Sequence[ForgettingCurve]) -> Retention | None:
    """Return the retention over curves; None where no task was followed by another."""
    followed = [curve for curve in curves if curve.followed]
    if not followed:
        return None
    met = [(curve, curve.just_before) for curve in curves if curve.just_before is not None]
    starts = met + [(curve, curve.before) for curve in curves if curve.is_first]
    return Retention(
        new_learning=_with_larger_error([(curve, curve.own - curve.before) for curve in curves], clustered),
        retained_share=_share([(curve, curve.before) for curve in followed]),
        transfer=_with_larger_error([(curve, start - curve.before) for curve, start in met], clustered),
        specific_share=_share([(curve, start) for curve, start in starts if curve.followed]) if met else None,
    )


def _share(curves: Sequence[tuple[ForgettingCurve, float]]) -> Estimate | None:
    """Return the share that is left at the end of what was learned above each curve's start."""
    return _with_larger_error([(curve, (curve.last - start, curve.own - start)) for curve, start in curves], _ratio)


def _ratio(clusters: Iterable[tuple[Hashable, tuple[float, float]]]) -> Estimate | None:
    sums: dict[Hashable, tuple[float, float]] = {}
    for cluster, (kept, learned) in clusters:
        kept_before, learned_before = sums.get(cluster, (0.0, 0.0))
        sums[cluster] = kept_before + kept, learned_before + learned
    return ratio_of_sums(sums)


def _with_larger_error(
    values: Sequence[tuple[ForgettingCurve, T]], over: Callable[[Iterable[tuple[Hashable, T]]], Estimate | None]
) -> Estimate | None:
    """Return an estimate over sequences; where they share tasks, with the error over tasks if that is larger.

    None if it is undefined over tasks.
    """
    found = over([(curve.sequence, value) for curve, value in values])
    if found is None or len({curve.task for curve, _ in values}) == len(values):
        return found
    over_tasks = over([(curve.task, value) for curve, value in values])
    if over_tasks is None:
        return None
    errors = [one.standard_error for one in (found, over_tasks) if one.standard_error is not None]
    return replace(found, standard_error=max(errors)) if found.standard_error is not None else found
