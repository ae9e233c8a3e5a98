"""ARC grids: rectangles of colours 0 to 9, at most 30 by 30."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seal_lightning.core.errors import shown

MAX_SIDE = 30
NUM_COLOURS = 10
_LONGEST_TEXT = MAX_SIDE * (MAX_SIDE + 1) - 1

Grid = tuple[tuple[int, ...], ...]
"""Rows of colours; hashable, so that tasks can be compared and duplicates found. What is computed on grids uses arrays."""

GridArray = NDArray[np.int8]
"""[rows, columns] of colours."""


class InvalidGrid(ValueError):
    """Something is no ARC grid; the text says what is wrong with it."""


def checked_grid(rows: object) -> Grid:
    """Nested lists as a grid. Raises :class:`InvalidGrid` unless it is rectangular, 1 to 30 a side, of integers 0 to 9."""
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes) or not 1 <= len(rows) <= MAX_SIDE:
        raise InvalidGrid(f"it must be a list of 1 to {MAX_SIDE} rows; it is {_kind(rows)}")
    for number, row in enumerate(rows):
        if not isinstance(row, Sequence) or isinstance(row, str | bytes) or not 1 <= len(row) <= MAX_SIDE:
            raise InvalidGrid(f"row {number} must be a list of 1 to {MAX_SIDE} colours; it is {_kind(row)}")
        if len(row) != len(rows[0]):
            raise InvalidGrid(f"row {number} has {len(row)} colours, row 0 has {len(rows[0])}; all must have as many")
        for column, colour in enumerate(row):
            if type(colour) is not int or not 0 <= colour < NUM_COLOURS:
                raise InvalidGrid(f"row {number}, column {column} is {shown(colour, 40)}; it must be an integer 0 to 9")
    return tuple(tuple(row) for row in rows)


def as_array(grid: Grid) -> GridArray:
    """[rows, columns]"""
    return np.array(grid, dtype=np.int8)


def as_grid(array: GridArray) -> Grid:
    """The inverse of :func:`as_array`."""
    return tuple(tuple(row) for row in array.tolist())


def fits(array: GridArray) -> bool:
    """Whether an array is at most 30 by 30."""
    return bool(max(array.shape) <= MAX_SIDE)


def as_text(grid: Grid) -> str:
    """A grid as it is stored and compared: rows of digits, one a line. (What a model reads is ``grid_text``'s affair.)"""
    return "\n".join("".join(map(str, row)) for row in grid)


def from_text(text: str) -> Grid:
    """The inverse of :func:`as_text`. Raises :class:`InvalidGrid`."""
    if len(text) > _LONGEST_TEXT:
        raise InvalidGrid(f"it has {len(text)} characters; the largest grid has {_LONGEST_TEXT}")
    if not text.isascii() or not text.replace("\n", "").isdigit():
        raise InvalidGrid(f"it must be rows of digits; it is {shown(text, 60)}")
    return checked_grid([[int(digit) for digit in row] for row in text.split("\n")])


def share_of_cells_right(predicted: Grid, gold: Grid) -> float:
    """Cells that agree, in [0, 1]: over the larger of the two areas, so that a wrong shape costs what it adds or lacks."""
    agree = sum(a == b for row, other in zip(predicted, gold, strict=False) for a, b in zip(row, other, strict=False))
    return agree / max(len(predicted) * len(predicted[0]), len(gold) * len(gold[0]))


def _kind(value: object) -> str:
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else shown(value, 60)
