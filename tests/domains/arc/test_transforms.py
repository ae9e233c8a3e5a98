"""Transforms and colour permutations rearrange, rename, and can be undone."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal_lightning.domains.arc.grids import as_array, as_text, from_text
from seal_lightning.domains.arc.transforms import TRANSFORMS, ColourPermutation, random_colours

quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

SIDES = st.integers(1, 5) | st.sampled_from([15, 16, 30])
GRIDS = arrays(np.int8, st.tuples(SIDES, SIDES), elements=st.integers(0, 9))
PERMUTATIONS = st.permutations(range(10)).map(lambda colours: ColourPermutation(new_colours=tuple(colours)))
RNGS = st.integers(0, 2**63 - 1).map(np.random.default_rng)

BY_HAND = {
    "identity": "123\n456",
    "rot90": "36\n25\n14",
    "rot180": "654\n321",
    "rot270": "41\n52\n63",
    "flip_lr": "321\n654",
    "flip_ud": "456\n123",
    "transpose": "14\n25\n36",
}


def test_they_are_what_their_names_say():
    results = {name: t.apply(as_array(from_text("123\n456"))) for name, t in TRANSFORMS.items()}
    assert {name: as_text(result.tolist()) for name, result in results.items()} == BY_HAND
    assert list(TRANSFORMS) == list(BY_HAND)
    assert all(name == transform.name for name, transform in TRANSFORMS.items())


@quick
@given(array=GRIDS)
def test_transforms_keep_the_cells_and_can_be_undone_both_ways(array):
    array.setflags(write=False)  # a transform that wrote to its grid would raise
    for name, transform in TRANSFORMS.items():
        result = transform.apply(array)
        assert result.shape == (array.shape[::-1] if name in ("rot90", "rot270", "transpose") else array.shape)
        assert result.dtype == np.int8
        assert sorted(result.ravel()) == sorted(array.ravel())
        assert np.array_equal(transform.inverse(result), array)
        assert np.array_equal(transform.apply(transform.inverse(array)), array)


@quick
@given(array=GRIDS, permutation=PERMUTATIONS)
def test_colour_permutations_rename_cell_by_cell_and_can_be_undone(array, permutation):
    array.setflags(write=False)
    result = permutation(array)
    assert (result.shape, result.dtype) == (array.shape, np.int8)
    assert result.ravel().tolist() == [permutation.new_colours[c] for c in array.ravel()]
    assert np.array_equal(permutation.inverse(result), array)
    assert np.array_equal(permutation(permutation.inverse(array)), array)
    assert permutation.inverse.inverse == permutation


def test_colour_c_becomes_the_cth_new_colour_not_the_other_way_round():
    cycle = ColourPermutation(new_colours=(0, 2, 3, 1, 4, 5, 6, 7, 8, 9))
    assert cycle(as_array(from_text("0123"))).tolist() == [[0, 2, 3, 1]]
    assert cycle.inverse.new_colours == (0, 3, 1, 2, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    "colours", [(), tuple(range(9)), (0, *range(9)), tuple(range(1, 11)), (*range(10), 0)], ids=str
)
def test_what_is_no_permutation_is_refused(colours):
    with pytest.raises(ValueError, match="every colour 0 to 9 once"):
        ColourPermutation(new_colours=colours)


@quick
@given(rng=RNGS, array=GRIDS)
def test_random_colours_permute_and_keep_the_background(rng, array):
    colours = random_colours(rng)
    assert sorted(colours.new_colours) == list(range(10))
    assert colours.new_colours[0] == 0
    assert all(type(colour) is int for colour in colours.new_colours)
    assert np.array_equal(colours(array) == 0, array == 0)


def test_every_colour_becomes_every_other_about_equally_often():
    rng = np.random.default_rng(0)
    drawn = np.array([random_colours(rng).new_colours for _ in range(1800)])
    times = np.array([[(drawn[:, old] == new).sum() for new in range(1, 10)] for old in range(1, 10)])
    assert times.min() > 140  # 200 expected, standard deviation 13
    assert times.max() < 260


def test_random_colours_come_from_the_rng_alone():
    state = np.random.get_state()[1].copy()
    assert random_colours(np.random.default_rng(5)) == random_colours(np.random.default_rng(5))
    assert random_colours(np.random.default_rng(5)) != random_colours(np.random.default_rng(6))
    assert np.array_equal(np.random.get_state()[1], state)
