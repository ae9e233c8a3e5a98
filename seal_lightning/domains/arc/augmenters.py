"""Training puzzles, and the menu of augmentations that a self-edit chooses from (§3.2, "Few-shot learning").

An augmenter draws one map of grids per puzzle and applies it to all of the puzzle's grids, inputs and outputs alike, so
that the rule between them stays as similar to the task's as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from seal_lightning.domains.arc.grids import ArcTask, Demonstration, Grid, GridArray, as_array, as_grid, fits
from seal_lightning.domains.arc.transforms import TRANSFORMS, GridMap


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """A training puzzle: the content of one training sequence."""

    demonstrations: tuple[Demonstration, ...]
    """≥ 1."""
    query: Demonstration
    """The pair that was held out to be predicted."""

    @property
    def grids(self) -> Iterator[Grid]:
        """Yield input and output of every demonstration, then of the query."""
        for pair in (*self.demonstrations, self.query):
            yield pair.input
            yield pair.output

    @property
    def size(self) -> int:
        """Cells plus rows of all grids: about the number of tokens, at one per cell and one per line end."""
        return sum(len(grid) * (len(grid[0]) + 1) for grid in self.grids)

    def mapped(self, grid_map: GridMap) -> Puzzle | None:
        """Return the puzzle with all grids mapped alike; None when a grid would exceed 30 by 30."""
        results = []
        for grid in self.grids:
            result = grid_map(as_array(grid))
            if not fits(result):
                return None
            results.append(as_grid(result))
        pairs = [Demonstration(input=i, output=o) for i, o in zip(results[::2], results[1::2], strict=True)]
        return Puzzle(demonstrations=tuple(pairs[:-1]), query=pairs[-1])


def leave_out(task: ArcTask, two: bool) -> tuple[Puzzle, ...]:
    """Return the puzzles that hold out each demonstration once; with ``two``, then also puzzles that lack a second one.

    A leave-two-out pair {i, j}, i < j, gives the query i and then the query j, both without either as demonstrations.
    No puzzle lacks demonstrations (in the released code some do): a task of one demonstration gives no puzzle, a task of
    two gives no leave-two-out puzzle.
    """
    indices = range(len(task.demonstrations))
    held_out: list[tuple[tuple[int, ...], int]] = [((index,), index) for index in indices]
    if two:
        held_out += [(pair, query) for pair in combinations(indices, 2) for query in pair]
    puzzles = []
    for without, query in held_out:
        shown = tuple(d for index, d in enumerate(task.demonstrations) if index not in without)
        if shown:
            puzzles.append(Puzzle(demonstrations=shown, query=task.demonstrations[query]))
    return tuple(puzzles)


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """One way to derive a puzzle from a puzzle."""

    name: str
    """Identifies the augmentation, also across groups: random draws are seeded with it."""
    draw: Callable[[Puzzle, np.random.Generator], GridMap]
    """Draws the map for all grids of a puzzle."""

    def __call__(self, puzzle: Puzzle, rng: np.random.Generator) -> Puzzle | None:
        """Return the augmented puzzle; None when a grid would exceed 30 by 30."""
        return puzzle.mapped(self.draw(puzzle, rng))


def _always(name: str, grid_map: GridMap) -> Augmenter:
    return Augmenter(name=name, draw=lambda puzzle, rng: grid_map)


def _random_shift(puzzle: Puzzle, rng: np.random.Generator) -> GridMap:
    """Draw one shift for all grids, uniformly, by at most half of the smallest grid's rows and columns.

    The released code shifts inputs and outputs differently, repeats one shift for every task, and wraps around.
    """
    # half, so that no grid is emptied; a grid of a single cell is not shifted
    most_down = min(len(grid) for grid in puzzle.grids) // 2
    most_right = min(len(grid[0]) for grid in puzzle.grids) // 2
    shifts = [
        (down, right)
        for down in range(-most_down, most_down + 1)
        for right in range(-most_right, most_right + 1)
        if (down, right) != (0, 0)
    ]
    down, right = shifts[rng.integers(len(shifts))] if shifts else (0, 0)
    return lambda array: shifted(array, down, right)


def shifted(array: GridArray, down: int, right: int) -> GridArray:
    """Move the content by so many cells (negative: up, left), filling with 0 and dropping what leaves the grid."""
    rows, columns = array.shape
    result = np.zeros_like(array)
    stays = array[max(-down, 0) : max(rows - down, 0), max(-right, 0) : max(columns - right, 0)]
    top, left = max(down, 0), max(right, 0)
    result[top : top + stays.shape[0], left : left + stays.shape[1]] = stays
    return result


def _mirrored(array: GridArray, axis: int, mirror_first: bool) -> GridArray:
    """Put the mirror image beside the grid; axis 0: above or below it."""
    mirror = np.flip(array, axis)
    return np.concatenate((mirror, array) if mirror_first else (array, mirror), axis)


def _double_height(array: GridArray) -> GridArray:
    return array.repeat(2, axis=0)


def _double_width(array: GridArray) -> GridArray:
    return array.repeat(2, axis=1)


def _double_resolution(array: GridArray) -> GridArray:
    return _double_height(_double_width(array))


def _transformed(name: str) -> Augmenter:
    return _always(name, TRANSFORMS[name].apply)


def _transformed_and_doubled(name: str) -> Augmenter:
    return _always(f"{name}_resolution_x2", lambda array: _double_resolution(TRANSFORMS[name].apply(array)))


_ROTATIONS_AND_FLIPS = ("rot90", "rot180", "rot270", "flip_lr", "flip_ud")

MENU: dict[str, tuple[Augmenter, ...]] = {
    "basic": (
        *map(_transformed, _ROTATIONS_AND_FLIPS),
        _always("mirror_right", lambda array: _mirrored(array, 1, False)),
        _always("mirror_left", lambda array: _mirrored(array, 1, True)),
        _always("mirror_below", lambda array: _mirrored(array, 0, False)),
        _always("mirror_above", lambda array: _mirrored(array, 0, True)),
        Augmenter(name="translate", draw=_random_shift),
        _transformed("transpose"),
    ),
    "size": (
        _always("resolution_x2", _double_resolution),
        _always("height_x2", _double_height),
        _always("width_x2", _double_width),
    ),
    "chain": tuple(map(_transformed_and_doubled, (*_ROTATIONS_AND_FLIPS, "transpose"))),
    "repeat": (
        _always("tile_rows", lambda array: np.tile(array, (2, 1))),
        _always("tile_columns", lambda array: np.tile(array, (1, 2))),
        _always("tile_both", lambda array: np.tile(array, (2, 2))),
    ),
    "geometric": tuple(map(_transformed, (*_ROTATIONS_AND_FLIPS, "transpose"))),
}
"""Augmenters by group. The first four groups are the paper's; "geometric" is ours: invertible and size-preserving."""
