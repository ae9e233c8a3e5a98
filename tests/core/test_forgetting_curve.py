"""What is retained, by hand; and when nothing can be said of it."""

from __future__ import annotations

import math

import pytest

from seal_lightning.core.estimates import Estimate, ratio_of_sums
from seal_lightning.core.forgetting_curve import ForgettingCurve, retention


def course(
    sequence: int,
    own: float,
    last: float,
    followed: bool = True,
    just_before: float | None = None,
    task: str | None = None,
) -> ForgettingCurve:
    return ForgettingCurve(
        sequence=sequence,
        task=task or object(),
        before=-5.0,
        just_before=just_before,
        own=own,
        last=last,
        is_first=just_before is None,
        followed=followed,
    )


def test_retention_by_hand() -> None:
    found = retention(
        [
            course(0, own=-3.0, last=-4.0),
            course(0, own=-1.0, last=-2.0, just_before=-4.0),
            course(0, own=-3.5, last=-3.5, followed=False, just_before=-4.5),
            course(1, own=-2.0, last=-5.0),
            course(1, own=-2.0, last=-3.0, just_before=-3.0),
            course(1, own=-2.0, last=-2.0, followed=False, just_before=-5.0),
        ]
    )
    assert found is not None
    # learned 2 + 4 and 3 + 3, retained 1 + 3 and 0 + 2; leaving one out: 2/6 and 4/6
    share = found.retained_share
    assert share is not None
    assert share.mean == pytest.approx(6 / 12)
    assert share.standard_error == pytest.approx(math.sqrt(1 / 2 * 2 * (1 / 6) ** 2))
    assert found.new_learning == Estimate(mean=2.75, standard_error=pytest.approx(0.25), n=2)  # type: ignore[arg-type]
    assert found.transfer == Estimate(mean=0.875, standard_error=pytest.approx(0.125), n=2)  # type: ignore[arg-type]
    # from just before the own step: learned 2 + 3 and 3 + 1, retained 1 + 2 and 0 + 0; leaving one out: 0 and 3/5
    share = found.specific_share
    assert share is not None
    assert share.mean == pytest.approx(3 / 9)
    assert share.standard_error == pytest.approx(math.sqrt(1 / 2 * 2 * 0.3**2))


def test_retention_without_exams_before_own_step() -> None:
    found = retention([course(0, own=-3.0, last=-4.0), course(1, own=-3.1, last=-4.0)])
    assert found is not None
    assert found.transfer is None
    assert found.specific_share is None, "the first step's alone would be called the share of all"


def test_retention_error_of_shared_tasks() -> None:
    def courses(shared: bool) -> list[ForgettingCurve]:
        gains = {"a": 3.5, "b": 4.0, "c": 3.0}
        return [
            course(n, own=-5 + gain, last=-5 + gain / 2 + (0.5 if name == "a" else 0.0), task=name if shared else None)
            for n in range(4)
            for name, gain in gains.items()
        ]

    apart, together = retention(courses(shared=False)), retention(courses(shared=True))
    assert apart is not None
    assert together is not None
    assert apart.new_learning is not None
    assert together.new_learning is not None
    assert apart.new_learning.standard_error == pytest.approx(0)
    assert together.new_learning.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert apart.retained_share is not None
    assert together.retained_share is not None
    assert together.retained_share.mean == apart.retained_share.mean
    assert apart.retained_share.standard_error == pytest.approx(0)
    assert (together.retained_share.standard_error or 0) > 0.02


def test_ratio_of_sums_needs_a_clear_denominator() -> None:
    assert ratio_of_sums({0: (1.0, 1.0), 1: (1.0, 1.2), 2: (1.0, 0.9)}) is not None
    assert ratio_of_sums({0: (1.0, 2.0), 1: (1.0, -0.5), 2: (1.0, 0.3)}) is None
    assert ratio_of_sums({0: (-1.0, -1.0), 1: (-1.0, -1.1)}) is None
    assert ratio_of_sums({0: (1.0, 1.0)}) is None, "one sequence has no error"
    assert ratio_of_sums({}) is None


def test_retention_needs_following_tasks() -> None:
    assert retention([course(0, own=-3.0, last=-3.0, followed=False)]) is None
    assert retention([]) is None
