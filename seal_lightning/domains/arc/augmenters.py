"""The menu of augmentations a self-edit chooses from (§3.2, "Few-shot learning").

An augmenter draws one map of grids for a puzzle and applies it to all of the puzzle's grids, inputs and outputs alike, so
that the rule that leads from one to the other stays as like the task's as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seal_lightning.domains.arc.grids import GridArray
from seal_lightning.domains.arc.puzzles import Puzzle
from seal_lightning.domains.arc.transforms import TRANSFORMS, GridMap


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """A way to make another puzzle of a puzzle."""

    name: str
    """One name, one way, also where two groups share it: random draws are seeded with it."""
    draw: Callable[[Puzzle, np.random.Generator], GridMap]
    """The map for all grids of a puzzle."""

    def __call__(self, puzzle: Puzzle, rng: np.random.Generator) -> Puzzle | None:
        """The augmented puzzle; None when a grid of it would be over 30 by 30."""
        return puzzle.mapped(self.draw(puzzle, rng))


def _always(name: str, grid_map: GridMap) -> Augmenter:
    return Augmenter(name=name, draw=lambda puzzle, rng: grid_map)


def _random_shift(puzzle: Puzzle, rng: np.random.Generator) -> GridMap:
    """One shift for all grids, all equally likely, by at most half of the smallest grid's rows and columns.

    Half, so that no grid is emptied. It is no shift only if none is possible: where the smallest grid is a single cell.
    The released code shifts inputs and outputs differently, repeats one shift for every task, and wraps around.
    """
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
    """The content moved by that many cells (negative: up, left); what is left behind is 0, what goes over is lost."""
    rows, columns = array.shape
    result = np.zeros_like(array)
    stays = array[max(-down, 0) : max(rows - down, 0), max(-right, 0) : max(columns - right, 0)]
    top, left = max(down, 0), max(right, 0)
    result[top : top + stays.shape[0], left : left + stays.shape[1]] = stays
    return result


def _mirrored(array: GridArray, axis: int, mirror_first: bool) -> GridArray:
    """The grid and its mirror image beside it; axis 0: one above the other."""
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
"""By group. The first four are the paper's; "geometric" is ours, and has what keeps a grid's cells and can be undone."""
