"""How much of what was learned is still known after later steps, from an episode's matrix M of scores.

M[k, i] is what is known of task i after k steps; row 0 is before any step. Task i is learned in step i + 1 of K. No torch:
tests and reports both come here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from seal_lightning.estimates import Estimate, clustered, ratio_of_sums


@dataclass(frozen=True, kw_only=True)
class Course:
    """One task's way through an episode."""

    sequence: Hashable
    """The episode: what was learned apart from others."""
    before: float
    """M[0, i]."""
    just_before: float | None = None
    """M[i, i], before its own step; None where it was not examined then."""
    own: float
    """M[i + 1, i]."""
    last: float
    """M[K, i]."""
    followed: bool
    """Whether other steps came behind its own."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Over an episode's sequences; of log-probabilities all differences are in nats. None where it cannot be said."""

    new_learning: Estimate | None
    """Mean of M[i+1, i] − M[0, i]."""
    retained_share: Estimate | None
    """Σ (M[K, i] − M[0, i]) / Σ (M[i+1, i] − M[0, i]) over i < K − 1; with the jackknife's standard error over sequences.
    None unless the denominator exceeds two standard errors."""
    transfer: Estimate | None
    """Mean of M[i, i] − M[0, i]: what other tasks' steps had taught before its own."""
    specific_share: Estimate | None
    """As ``retained_share`` with M[i, i] in the place of M[0, i]: of what the own step added, how much is left."""


def retention(courses: Sequence[Course]) -> Retention | None:
    """What became of what was learned; None where no task was followed by another."""
    followed = [course for course in courses if course.followed]
    if not followed:
        return None
    met = [(course, course.just_before) for course in courses if course.just_before is not None]
    return Retention(
        new_learning=clustered((course.sequence, course.own - course.before) for course in courses),
        retained_share=_share([(course, course.before) for course in followed]),
        transfer=clustered((course.sequence, just_before - course.before) for course, just_before in met),
        specific_share=_share([(course, just_before) for course, just_before in met if course.followed]),
    )


def _share(courses: Sequence[tuple[Course, float]]) -> Estimate | None:
    """Of what was learned above a start, how much is left in the end."""
    sums: dict[Hashable, tuple[float, float]] = {}
    for course, start in courses:
        kept, learned = sums.get(course.sequence, (0.0, 0.0))
        sums[course.sequence] = kept + course.last - start, learned + course.own - start
    return ratio_of_sums(sums)
