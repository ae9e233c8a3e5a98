"""Transforms are invertible, and colour permutations keep the background."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal_lightning.domains.arc.grids import as_array, as_text, from_text
from seal_lightning.domains.arc.transforms import TRANSFORMS, random_colours

quick = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

SIDES = st.integers(1, 5) | st.sampled_from([15, 16, 30])
GRIDS = arrays(np.int8, st.tuples(SIDES, SIDES), elements=st.integers(0, 9))
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


def test_transforms_match_their_names():
    results = {name: t.apply(as_array(from_text("123\n456"))) for name, t in TRANSFORMS.items()}
    assert {name: as_text(result.tolist()) for name, result in results.items()} == BY_HAND
    assert list(TRANSFORMS) == list(BY_HAND)
    assert all(name == transform.name for name, transform in TRANSFORMS.items())


@quick
@given(array=GRIDS)
def test_transforms_keep_cells_and_are_invertible(array):
    array.setflags(write=False)  # a transform that wrote to its grid would raise
    for name, transform in TRANSFORMS.items():
        result = transform.apply(array)
        assert result.shape == (array.shape[::-1] if name in ("rot90", "rot270", "transpose") else array.shape)
        assert result.dtype == np.int8
        assert sorted(result.ravel()) == sorted(array.ravel())
        assert np.array_equal(transform.inverse(result), array)
        assert np.array_equal(transform.apply(transform.inverse(array)), array)


@quick
@given(rng=RNGS, array=GRIDS)
def test_random_colours_permute_and_keep_the_background(rng, array):
    colours = random_colours(rng)
    array.setflags(write=False)
    result = colours(array)
    assert (result.shape, result.dtype) == (array.shape, np.int8)
    new = colours(np.arange(10, dtype=np.int8)[None])[0].tolist()
    assert sorted(new) == list(range(10))
    assert new[0] == 0
    assert result.ravel().tolist() == [new[c] for c in array.ravel()]


def test_random_colours_are_uniform():
    rng = np.random.default_rng(0)
    every = np.arange(10, dtype=np.int8)[None]
    drawn = np.array([random_colours(rng)(every)[0] for _ in range(1800)])
    times = np.array([[(drawn[:, old] == new).sum() for new in range(1, 10)] for old in range(1, 10)])
    assert times.min() > 140  # 200 expected, standard deviation 13
    assert times.max() < 260
