"""The permutation test against counting by hand."""

from __future__ import annotations

import random
from itertools import product

import pytest

from seal_lightning.reporting.sign_flips import MAX_EXACT, NUM_DRAWS, sign_flip_test


def by_hand(differences: list[float]) -> float:
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(8))
def test_the_exact_test_counts_every_sign(seed: int) -> None:
    generator = random.Random(seed)
    differences = [generator.gauss(0.4, 1.0) for _ in range(seed + 1)]
    found = sign_flip_test(differences)
    assert found.is_exact
    assert found.num_signs == 2 ** len(differences)
    assert found.p_value == pytest.approx(by_hand(differences))


def test_known_values() -> None:
    assert sign_flip_test([1.0]).p_value == 1.0
    assert sign_flip_test([0.3] * 6).p_value == 2 / 64
    assert sign_flip_test([0.0] * 5).p_value == 1.0
    assert sign_flip_test([-0.1, -0.2, -0.7]).p_value == sign_flip_test([0.1, 0.2, 0.7]).p_value
    with pytest.raises(ValueError, match="no difference"):
        sign_flip_test([])


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.6])
def test_draws_come_near_the_exact_test(mean: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(5)
    differences = [generator.gauss(mean, 1.0) for _ in range(13)]
    exact = sign_flip_test(differences).p_value
    monkeypatch.setattr("seal_lightning.reporting.sign_flips.MAX_EXACT", 4)
    drawn = sign_flip_test(differences, seed=1)
    assert not drawn.is_exact
    assert drawn.p_value == pytest.approx(exact, abs=4 * (exact / NUM_DRAWS) ** 0.5 + 1e-3)
    assert sign_flip_test(differences, seed=1) == drawn


def test_a_clear_difference_of_many_is_the_rarest_draw() -> None:
    assert sign_flip_test([1.0] * (MAX_EXACT + 24)).p_value == 1 / (NUM_DRAWS + 1)


def test_the_level_is_kept() -> None:
    """Of differences that are noise, one in twenty comes out as more."""
    generator = random.Random(0)
    p_values = [sign_flip_test([generator.gauss(0, 1) for _ in range(9)]).p_value for _ in range(400)]
    assert 0.02 < sum(p < 0.05 for p in p_values) / 400 < 0.085
