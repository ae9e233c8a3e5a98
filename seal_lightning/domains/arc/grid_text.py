"""How a model reads and writes a grid."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.domains.arc.grids import MAX_SIDE, NUM_COLOURS, Grid, InvalidGrid, checked_grid


@dataclass(frozen=True, kw_only=True)
class GridText:
    """Cells as symbols, rows as lines. Few tokens a cell, and as many for every colour, make a grid's columns align.

    The digits without separators are one token a cell for tokenizers that split digits (SmolLM2, Qwen). Llama 3 merges up
    to three digits; letters behind blanks are one token a cell there (``symbols: abcdefghij``, ``cell_separator: " "``,
    ``row_start: " "``). Measured by ``tests/benchmarks/grid_text.py``.
    """

    symbols: str = "0123456789"
    """Ten different characters, the colours 0 to 9."""
    cell_separator: str = ""
    row_start: str = ""
    """Written before each row, as where a symbol's token has a blank in front."""

    def __post_init__(self) -> None:
        """Check that grids can be read back. Raises :class:`ConfigError`."""
        symbols = set(self.symbols)
        if len(self.symbols) != NUM_COLOURS or len(symbols) != NUM_COLOURS or any(s.isspace() for s in symbols):
            raise ConfigError(
                f"grid_text.symbols: {shown(self.symbols)} is not allowed; it must be 10 different symbols"
            )
        for name, text in (("cell_separator", self.cell_separator), ("row_start", self.row_start)):
            if symbols & set(text) or "\n" in text:
                raise ConfigError(
                    f"grid_text.{name}: {shown(text)} is not allowed; no symbol and no line end may be in it"
                )

    def encode(self, grid: Grid) -> str:
        """The grid's text, without a line end behind it."""
        rows = (self.cell_separator.join(self.symbols[colour] for colour in row) for row in grid)
        return "\n".join(self.row_start + row for row in rows)

    def decode(self, text: str) -> Grid:
        """The grid of a text that is one and nothing else; blanks and line ends around it do not count.

        Raises :class:`InvalidGrid`, in time bounded by the largest grid's length.
        """
        if len(text) > self._longest:
            raise InvalidGrid(f"it has {len(text)} characters; the largest grid has {self._longest}")
        bare = text.strip()
        # An answer begins where the prompt ended: its first row may lack the blank that the prompt's template took.
        grid = checked_grid([[self._colour(symbol) for symbol in self._cells(row)] for row in bare.split("\n")])
        if self.encode(grid).strip() != bare:
            raise InvalidGrid(f"its separators are not those of a grid; it is {shown(text, 60)}")
        return grid

    @property
    def _longest(self) -> int:
        cells = MAX_SIDE + (MAX_SIDE - 1) * len(self.cell_separator)
        return MAX_SIDE * (cells + len(self.row_start) + 1) + 16

    def _cells(self, row: str) -> str:
        separators = set(self.cell_separator + self.row_start)
        return "".join(c for c in row if c not in separators)

    def _colour(self, symbol: str) -> int:
        colour = self.symbols.find(symbol)
        if colour < 0:
            raise InvalidGrid(f"{shown(symbol, 20)} is no colour; the symbols are {self.symbols}")
        return colour
