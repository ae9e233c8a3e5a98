"""What is retained, by hand; and when nothing can be said of it."""

from __future__ import annotations

import math

import pytest

from seal_lightning.estimates import Estimate, ratio_of_sums
from seal_lightning.retention import Course, retention


def course(sequence: int, own: float, last: float, followed: bool = True, just_before: float | None = None) -> Course:
    return Course(sequence=sequence, before=-5.0, just_before=just_before, own=own, last=last, followed=followed)


def test_by_hand() -> None:
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
    # from just before the own step: learned 3 and 1, retained 2 and 0; 4 of 2 ± 1 is not above two standard errors
    assert found.specific_share is None


def test_a_share_of_next_to_nothing_is_not_claimed() -> None:
    assert ratio_of_sums({0: (1.0, 1.0), 1: (1.0, 1.2), 2: (1.0, 0.9)}) is not None
    assert ratio_of_sums({0: (1.0, 2.0), 1: (1.0, -0.5), 2: (1.0, 0.3)}) is None
    assert ratio_of_sums({0: (-1.0, -1.0), 1: (-1.0, -1.1)}) is None
    assert ratio_of_sums({0: (1.0, 1.0)}) is None, "one sequence has no error"
    assert ratio_of_sums({}) is None


def test_what_nothing_followed_has_no_retention() -> None:
    assert retention([course(0, own=-3.0, last=-3.0, followed=False)]) is None
    assert retention([]) is None
