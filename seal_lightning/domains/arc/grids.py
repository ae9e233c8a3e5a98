"""ARC grids, rectangles of colours 0 to 9 of at most 30 by 30 cells; the tasks made of them; and their text for a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seal_lightning.core import Task
from seal_lightning.core.errors import ConfigError, shown

MAX_SIDE = 30
NUM_COLOURS = 10

Grid = tuple[tuple[int, ...], ...]
"""Rows of colours. Hashable, so that tasks can be compared and duplicates found; computations use :data:`GridArray`."""

GridArray = NDArray[np.int8]
"""[rows, columns] of colours."""


class InvalidGrid(ValueError):
    """Something that is not an ARC grid; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """An input grid and the output grid that the task's rule makes of it.

    Example:
        >>> Demonstration(input=((0, 1),), output=((1, 0),)).output
        ((1, 0),)

    """

    input: Grid
    output: Grid


@dataclass(frozen=True, kw_only=True)
class TestPair:
    """An input grid to which the rule is to be applied.

    Example:
        >>> TestPair(input=((0, 1),), output=None).input
        ((0, 1),)

    """

    __test__ = False  # pytest: not a test case

    input: Grid
    output: Grid | None
    """The gold grid; None where it is not published (a Kaggle challenge)."""


@dataclass(frozen=True, kw_only=True)
class ArcTask(Task):
    """A puzzle of ARC-AGI: the demonstrations are the context C of §3.1, the test pairs are τ.

    Example:
        >>> pair = Demonstration(input=((0, 1),), output=((1, 0),))
        >>> test = TestPair(input=((2, 3),), output=None)
        >>> len(ArcTask(task_id="swap", demonstrations=(pair,), tests=(test,)).grids)
        3

    """

    demonstrations: tuple[Demonstration, ...]
    """≥ 1."""
    tests: tuple[TestPair, ...]
    """≥ 1."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All published grids, test outputs included."""
        pairs: tuple[Demonstration | TestPair, ...] = (*self.demonstrations, *self.tests)
        return tuple(grid for pair in pairs for grid in (pair.input, pair.output) if grid is not None)


def checked_grid(rows: object) -> Grid:
    """Return nested lists as a grid.

    Raises :class:`InvalidGrid` unless the rows are rectangular, 1 to 30 cells a side, of integers 0 to 9.
    """
    if not isinstance(rows, list | tuple) or not 1 <= len(rows) <= MAX_SIDE:
        raise InvalidGrid(f"must be a list of 1 to {MAX_SIDE} rows")
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple) or not 1 <= len(row) <= MAX_SIDE or len(row) != len(rows[0]):
            raise InvalidGrid(f"row {number} must be a list of 1 to {MAX_SIDE} colours, as many as row 0 has")
        for column, colour in enumerate(row):
            if type(colour) is not int or not 0 <= colour < NUM_COLOURS:
                raise InvalidGrid(f"row {number}, column {column} is {shown(colour, 40)}; it must be an integer 0 to 9")
    return tuple(tuple(row) for row in rows)


def as_array(grid: Grid) -> GridArray:
    """Convert a grid to an array."""
    return np.array(grid, dtype=np.int8)  # [rows, columns]


def as_grid(array: GridArray) -> Grid:
    """Convert an array to a grid, the inverse of :func:`as_array`."""
    return tuple(tuple(row) for row in array.tolist())


def fits(array: GridArray) -> bool:
    """Return True for an array of at most 30 by 30 cells."""
    return bool(max(array.shape) <= MAX_SIDE)


def as_text(grid: Grid) -> str:
    """Write a grid as it is stored and compared: rows of digits, one per line. :class:`GridText` is for models."""
    return "\n".join("".join(map(str, row)) for row in grid)


def from_text(text: str) -> Grid:
    """Read a grid that :func:`as_text` wrote. Raises :class:`InvalidGrid`."""
    return GridText().decode(text)


def share_of_cells_right(predicted: Grid, gold: Grid) -> float:
    """Return the share of agreeing cells in [0, 1].

    It is over the larger of the two areas, so that a wrong shape costs what it adds or lacks.
    """
    agree = sum(a == b for row, other in zip(predicted, gold, strict=False) for a, b in zip(row, other, strict=False))
    return agree / max(len(predicted) * len(predicted[0]), len(gold) * len(gold[0]))


@dataclass(frozen=True, kw_only=True)
class GridText:
    """Text of a grid for a model: cells as symbols, rows as lines.

    Few tokens per cell, and equally many for every colour, make a grid's columns align. Digits without separators are one
    token per cell for tokenizers that split digits (SmolLM2, Qwen). Llama 3 merges up to three digits; letters behind
    blanks are one token per cell there (``symbols: abcdefghij``, ``cell_separator: " "``, ``row_start: " "``). Measured by
    ``tests/benchmarks/grid_text.py``.

    Example:
        >>> GridText(cell_separator=" ").encode(((0, 1), (2, 3)))
        '0 1\\n2 3'
        >>> GridText().decode("01\\n23")
        ((0, 1), (2, 3))

    """

    symbols: str = "0123456789"
    """Ten different characters, the colours 0 to 9."""
    cell_separator: str = ""
    row_start: str = ""
    """Written before each row, for tokenizers whose symbols have a leading blank."""

    def __post_init__(self) -> None:
        """Check that grids can be read back. Raises :class:`ConfigError`."""
        symbols = set(self.symbols)
        if len(self.symbols) != NUM_COLOURS or len(symbols) != NUM_COLOURS or any(s.isspace() for s in symbols):
            raise ConfigError(f"grid_text.symbols: {shown(self.symbols)} is not allowed; give 10 different symbols")
        for name, text in (("cell_separator", self.cell_separator), ("row_start", self.row_start)):
            if symbols & set(text) or "\n" in text:
                raise ConfigError(
                    f"grid_text.{name}: {shown(text)} is not allowed; it must hold no symbol and no line end"
                )

    def encode(self, grid: Grid) -> str:
        """Write the grid, without a line end behind it."""
        rows = (self.cell_separator.join(self.symbols[colour] for colour in row) for row in grid)
        return "\n".join(self.row_start + row for row in rows)

    def decode(self, text: str) -> Grid:
        """Read a text that is one grid and nothing else; blanks and line ends around it are ignored.

        Raises :class:`InvalidGrid`, in time bounded by the largest grid's length.
        """
        cells = MAX_SIDE + (MAX_SIDE - 1) * len(self.cell_separator)
        longest = MAX_SIDE * (cells + len(self.row_start) + 1) + 16
        if len(text) > longest:
            raise InvalidGrid(f"it has {len(text)} characters; the largest grid has {longest}")
        bare = text.strip()
        # An answer begins where the prompt ended: its first row may lack the blank that the prompt's template took.
        grid = checked_grid([[self._colour(symbol) for symbol in self._cells(row)] for row in bare.split("\n")])
        if self.encode(grid).strip() != bare:
            raise InvalidGrid(f"its separators are not those of a grid; it is {shown(text, 60)}")
        return grid

    def _cells(self, row: str) -> str:
        separators = set(self.cell_separator + self.row_start)
        return "".join(c for c in row if c not in separators)

    def _colour(self, symbol: str) -> int:
        colour = self.symbols.find(symbol)
        if colour < 0:
            raise InvalidGrid(f"{shown(symbol, 20)} is not a colour; the symbols are {self.symbols}")
        return colour
