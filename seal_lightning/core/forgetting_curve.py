"""How much of what was learned is still known after later steps, from an episode's matrix M of scores.

M[k, i] is what is known of task i after k steps; row 0 is before any step. Task i is learned in step i + 1 of K. No torch:
tests and reports both come here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from seal_lightning.core.estimates import Estimate, clustered, ratio_of_sums

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ForgettingCurve:
    """One task's way through an episode."""

    sequence: Hashable
    """The episode: what was learned apart from others."""
    task: Hashable
    """Who it is: where episodes share tasks, they are not learned quite apart."""
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
    """Whether other steps came behind its own."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Over sequences; of log-probabilities all differences are in nats. None where it cannot be said.

    Where sequences share tasks, of the standard errors over sequences and over tasks the larger one.
    """

    new_learning: Estimate | None
    """Mean of M[i+1, i] − M[0, i]."""
    retained_share: Estimate | None
    """Σ (M[K, i] − M[0, i]) / Σ (M[i+1, i] − M[0, i]) over i < K − 1; with the jackknife's standard error. None
    unless the denominator exceeds two standard errors, which a single sequence has not."""
    transfer: Estimate | None
    """Mean of M[i, i] − M[0, i]: what other tasks' steps had taught before its own."""
    specific_share: Estimate | None
    """As ``retained_share`` with M[i, i] in the place of M[0, i]: of what the own step added, how much is left. None where
    M[i, i] is not known beyond the first step's."""


def retention(courses: Sequence[ForgettingCurve]) -> Retention | None:
    """What became of what was learned; None where no task was followed by another."""
    followed = [course for course in courses if course.followed]
    if not followed:
        return None
    met = [(course, course.just_before) for course in courses if course.just_before is not None]
    starts = met + [(course, course.before) for course in courses if course.is_first]
    return Retention(
        new_learning=_mean([(course, course.own - course.before) for course in courses]),
        retained_share=_share([(course, course.before) for course in followed]),
        transfer=_mean([(course, just_before - course.before) for course, just_before in met]),
        specific_share=_share([(course, start) for course, start in starts if course.followed]) if met else None,
    )


def _mean(values: Sequence[tuple[ForgettingCurve, float]]) -> Estimate | None:
    return _with_larger_error(values, clustered)


def _share(courses: Sequence[tuple[ForgettingCurve, float]]) -> Estimate | None:
    """Of what was learned above a start, how much is left in the end."""
    parts = [(course, (course.last - start, course.own - start)) for course, start in courses]

    def over(clusters: Iterable[tuple[Hashable, tuple[float, float]]]) -> Estimate | None:
        sums: dict[Hashable, tuple[float, float]] = {}
        for cluster, (kept, learned) in clusters:
            kept_before, learned_before = sums.get(cluster, (0.0, 0.0))
            sums[cluster] = kept_before + kept, learned_before + learned
        return ratio_of_sums(sums)

    return _with_larger_error(parts, over)


def _with_larger_error(
    values: Sequence[tuple[ForgettingCurve, T]], over: Callable[[Iterable[tuple[Hashable, T]]], Estimate | None]
) -> Estimate | None:
    """An estimate over sequences; where they share tasks, with the error over tasks if that is larger, and None if over
    tasks it cannot be said.
    """
    found = over([(course.sequence, value) for course, value in values])
    if found is None or len({course.task for course, _ in values}) == len(values):
        return found
    over_tasks = over([(course.task, value) for course, value in values])
    if over_tasks is None:
        return None
    errors = [one.standard_error for one in (found, over_tasks) if one.standard_error is not None]
    return replace(found, standard_error=max(errors)) if found.standard_error is not None else found
