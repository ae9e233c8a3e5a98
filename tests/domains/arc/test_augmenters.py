"""Every augmenter maps all grids of a puzzle alike, and makes none over 30 by 30."""

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal_lightning.domains.arc.augmenters import MENU, Puzzle, shifted
from seal_lightning.domains.arc.grids import Demonstration, as_array, as_grid, as_text, checked_grid, from_text

quick = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

SIDES = st.integers(1, 4) | st.integers(1, 4) | st.sampled_from([15, 16, 30])
ARRAYS = arrays(np.int8, st.tuples(SIDES, SIDES), elements=st.integers(0, 9))
GRIDS = ARRAYS.map(as_grid)
PAIRS = st.builds(Demonstration, input=GRIDS, output=GRIDS)
PUZZLES = st.builds(Puzzle, demonstrations=st.lists(PAIRS, min_size=1, max_size=2).map(tuple), query=PAIRS)
SEEDS = st.integers(0, 2**63 - 1)

BY_HAND = {
    "basic": {
        "rot90": "25 14",
        "rot180": "54 21",
        "rot270": "41 52",
        "flip_lr": "21 54",
        "flip_ud": "45 12",
        "mirror_right": "1221 4554",
        "mirror_left": "2112 5445",
        "mirror_below": "12 45 45 12",
        "mirror_above": "45 12 12 45",
        "translate": None,  # random: see below
        "transpose": "14 25",
    },
    "size": {"resolution_x2": "1122 1122 4455 4455", "height_x2": "12 12 45 45", "width_x2": "1122 4455"},
    "chain": {
        "rot90_resolution_x2": "2255 2255 1144 1144",
        "rot180_resolution_x2": "5544 5544 2211 2211",
        "rot270_resolution_x2": "4411 4411 5522 5522",
        "flip_lr_resolution_x2": "2211 2211 5544 5544",
        "flip_ud_resolution_x2": "4455 4455 1122 1122",
        "transpose_resolution_x2": "1144 1144 2255 2255",
    },
    "repeat": {
        "tile_rows": "12 45 12 45",
        "tile_columns": "1212 4545",
        "tile_both": "1212 4545 1212 4545",
    },
    "geometric": {
        "rot90": "25 14",
        "rot180": "54 21",
        "rot270": "41 52",
        "flip_lr": "21 54",
        "flip_ud": "45 12",
        "transpose": "14 25",
    },
}
AUGMENTERS = {augmenter.name: augmenter for group in MENU.values() for augmenter in group}


def rng(seed=0):
    return np.random.default_rng(seed)


def puzzle_of(*grids):
    """Of an even number of grids; the last two are the query's."""
    pairs = [Demonstration(input=i, output=o) for i, o in zip(grids[::2], grids[1::2], strict=True)]
    return Puzzle(demonstrations=tuple(pairs[:-1]), query=pairs[-1])


def moved(grid, down, right):
    """Cell by cell, as one would explain it."""
    rows, columns = len(grid), len(grid[0])
    return tuple(
        tuple(
            grid[r - down][c - right] if 0 <= r - down < rows and 0 <= c - right < columns else 0
            for c in range(columns)
        )
        for r in range(rows)
    )


def test_the_menu_is_the_papers_and_geometric():
    assert {group: [a.name for a in augmenters] for group, augmenters in MENU.items()} == {
        group: list(expected) for group, expected in BY_HAND.items()
    }
    assert list(MENU) == ["basic", "size", "chain", "repeat", "geometric"]


@pytest.mark.parametrize("group", BY_HAND)
def test_augmenters_match_their_names(group):
    grid = from_text("12\n45")
    for augmenter in MENU[group]:
        expected = BY_HAND[group][augmenter.name]
        if expected is not None:
            result = augmenter(puzzle_of(grid, grid, grid, grid), rng())
            assert [as_text(g).replace("\n", " ") for g in result.grids] == [expected] * 4, augmenter.name


@quick
@given(puzzle=PUZZLES, seed=SEEDS)
def test_augmenters_map_all_grids_alike(puzzle, seed):
    """And a grid or none where one would be too large."""
    grids = list(puzzle.grids)
    for augmenter in AUGMENTERS.values():
        each = augmenter.draw(puzzle, rng(seed))
        expected = [as_grid(each(as_array(grid))) for grid in grids]
        too_large = any(max(len(grid), len(grid[0])) > 30 for grid in expected)
        result = augmenter(puzzle, rng(seed))
        backwards = augmenter(puzzle_of(*reversed(grids)), rng(seed))
        assert (result is None) == (backwards is None) == too_large
        if result is not None:
            assert list(result.grids) == expected == list(reversed(list(backwards.grids)))
            assert len(result.demonstrations) == len(puzzle.demonstrations)
            assert all(checked_grid(grid) == grid for grid in result.grids)


@quick
@given(puzzle=PUZZLES, array=ARRAYS, seed=SEEDS)
def test_augmenters_are_pure(puzzle, array, seed):
    before = repr(puzzle)
    array.setflags(write=False)  # a map that wrote to its grid would raise
    for augmenter in AUGMENTERS.values():
        assert augmenter(puzzle, rng(seed)) == augmenter(puzzle, rng(seed))
        assert augmenter.draw(puzzle, rng(seed))(array).dtype == np.int8
    assert repr(puzzle) == before


@quick
@given(puzzle=PUZZLES)
def test_geometric_augmenters_keep_the_cells(puzzle):
    for augmenter in MENU["geometric"]:
        for before, after in zip(puzzle.grids, augmenter(puzzle, rng()).grids, strict=True):
            assert sorted(sum(before, ())) == sorted(sum(after, ()))
            assert sorted([len(before), len(before[0])]) == sorted([len(after), len(after[0])])


@quick
@given(puzzle=PUZZLES, seed=SEEDS)
def test_shared_augmenter_names_are_the_same_map(puzzle, seed):
    by_name = {}
    for augmenter in (a for group in MENU.values() for a in group):
        result = augmenter(puzzle, rng(seed))
        assert by_name.setdefault(augmenter.name, result) == result
    assert len(by_name) == 11 + 3 + 6 + 3


@pytest.mark.parametrize(("side", "allowed"), [(15, True), (16, False)])
def test_augmenters_refuse_over_30_a_side(side, allowed):
    small, other = from_text("1"), as_grid(np.ones((1, side), np.int8))
    (widened,) = [a for a in MENU["size"] if a.name == "width_x2"]
    for place in range(4):
        grids = [small] * 4
        grids[place] = other
        assert (widened(puzzle_of(*grids), rng()) is not None) == allowed


@quick
@given(array=ARRAYS, down=st.integers(-32, 32), right=st.integers(-32, 32))
def test_a_shift_leaves_zeros_and_does_not_wrap_around(array, down, right):
    array.setflags(write=False)
    assert as_grid(shifted(array, down, right)) == moved(as_grid(array), down, right)


def test_a_shift_by_hand():
    array = as_array(from_text("123\n456"))
    assert shifted(array, 1, -1).tolist() == [[0, 0, 0], [2, 3, 0]]
    assert shifted(array, -1, 2).tolist() == [[0, 0, 4], [0, 0, 0]]


@quick
@given(puzzle=PUZZLES, seed=SEEDS)
def test_translation_is_one_shift_of_at_most_half(puzzle, seed):
    most_down = min(len(grid) for grid in puzzle.grids) // 2
    most_right = min(len(grid[0]) for grid in puzzle.grids) // 2
    large = as_grid(np.full((61, 61), 7, np.int8))
    seen = AUGMENTERS["translate"].draw(puzzle, rng(seed))(as_array(large))
    rows, columns = np.nonzero(seen)
    down = rows.min() or rows.max() - 60
    right = columns.min() or columns.max() - 60
    assert abs(down) <= most_down
    assert abs(right) <= most_right
    assert ((down, right) != (0, 0)) == (most_down + most_right > 0)
    result = AUGMENTERS["translate"](puzzle, rng(seed))
    assert list(result.grids) == [moved(grid, down, right) for grid in puzzle.grids]


def test_translation_draws_every_shift_but_zero():
    puzzle = puzzle_of(*[from_text("1234\n5678\n1234")] * 4)
    possible = [moved(puzzle.query.input, *s) for s in product((-1, 0, 1), (-2, -1, 0, 1, 2)) if s != (0, 0)]
    drawn = [AUGMENTERS["translate"](puzzle, rng(seed)).query.input for seed in range(700)]
    times = [drawn.count(grid) for grid in possible]
    assert sum(times) == 700
    assert min(times) > 25  # 50 expected, standard deviation 7
    assert max(times) < 75


def test_a_single_cell_cannot_be_shifted():
    puzzle = puzzle_of(from_text("1"), from_text("2"), from_text("345"), from_text("6\n7"))
    assert AUGMENTERS["translate"](puzzle, rng()) == puzzle
