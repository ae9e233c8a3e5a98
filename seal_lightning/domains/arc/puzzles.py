"""Training puzzles: some of a task's demonstrations, and one more that was held out to be predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from seal_lightning.domains.arc.grids import Grid, as_array, as_grid, fits
from seal_lightning.domains.arc.task import ArcTask, Demonstration
from seal_lightning.domains.arc.transforms import GridMap


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """What one training sequence is written from."""

    demonstrations: tuple[Demonstration, ...]
    """≥ 1."""
    query: Demonstration
    """The held-out pair."""

    @property
    def grids(self) -> Iterator[Grid]:
        """Input and output of every demonstration, then of the query."""
        for pair in (*self.demonstrations, self.query):
            yield pair.input
            yield pair.output

    @property
    def size(self) -> int:
        """Cells and rows of all grids: about its tokens, at one a cell and one a row's end."""
        return sum(len(grid) * (len(grid[0]) + 1) for grid in self.grids)

    def mapped(self, grid_map: GridMap) -> Puzzle | None:
        """The puzzle with every grid mapped alike; None when one would be over 30 by 30."""
        results = []
        for grid in self.grids:
            result = grid_map(as_array(grid))
            if not fits(result):
                return None
            results.append(as_grid(result))
        pairs = [Demonstration(input=i, output=o) for i, o in zip(results[::2], results[1::2], strict=True)]
        return Puzzle(demonstrations=tuple(pairs[:-1]), query=pairs[-1])


def leave_out(task: ArcTask, two: bool) -> tuple[Puzzle, ...]:
    """Each demonstration held out once, the others shown; with ``two``, then also puzzles that lack a second one.

    A leave-two-out pair {i, j}, i < j, gives the query i and then the query j, both without either as demonstrations.
    No puzzle is without demonstrations (the released code makes such ones): a task of one demonstration gives none at
    all, one of two no leave-two-out ones.
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
