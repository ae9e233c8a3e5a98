"""Maps of grids that can be undone: the symmetries of the square, and permutations of the colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seal_lightning.domains.arc.grids import NUM_COLOURS, GridArray

GridMap = Callable[[GridArray], GridArray]
"""[rows, columns] to [rows, columns], which may be others. What it returns may be a view: nothing here writes to grids."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A rearrangement of a grid's cells, and the one that undoes it."""

    name: str
    apply: GridMap
    inverse: GridMap


def rot90(array: GridArray) -> GridArray:
    """A quarter turn against the clock."""
    return np.rot90(array)


def rot180(array: GridArray) -> GridArray:
    """Half a turn."""
    return np.rot90(array, 2)


def rot270(array: GridArray) -> GridArray:
    """A quarter turn with the clock."""
    return np.rot90(array, 3)


def flip_lr(array: GridArray) -> GridArray:
    """Left becomes right."""
    return np.fliplr(array)


def flip_ud(array: GridArray) -> GridArray:
    """Top becomes bottom."""
    return np.flipud(array)


def transpose(array: GridArray) -> GridArray:
    """Rows become columns."""
    return array.T


def identity(array: GridArray) -> GridArray:
    """The grid itself."""
    return array


TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform(name="identity", apply=identity, inverse=identity),
        Transform(name="rot90", apply=rot90, inverse=rot270),
        Transform(name="rot180", apply=rot180, inverse=rot180),
        Transform(name="rot270", apply=rot270, inverse=rot90),
        Transform(name="flip_lr", apply=flip_lr, inverse=flip_lr),
        Transform(name="flip_ud", apply=flip_ud, inverse=flip_ud),
        Transform(name="transpose", apply=transpose, inverse=transpose),
    )
}
"""By name. These are all the exam votes over: of the augmentations, only they can be undone on a predicted grid."""


@dataclass(frozen=True, kw_only=True)
class ColourPermutation:
    """A renaming of the colours, one to one."""

    new_colours: tuple[int, ...]
    """The colours 0 to 9 in some order; colour c becomes ``new_colours[c]``."""

    def __post_init__(self) -> None:
        if sorted(self.new_colours) != list(range(NUM_COLOURS)):
            raise ValueError(f"must have every colour 0 to {NUM_COLOURS - 1} once; it is {self.new_colours}")

    def __call__(self, array: GridArray) -> GridArray:
        """The grid in its new colours, of the same shape."""
        return np.array(self.new_colours, dtype=np.int8)[array]

    @property
    def inverse(self) -> ColourPermutation:
        """The permutation that undoes this one."""
        return ColourPermutation(new_colours=tuple(self.new_colours.index(c) for c in range(NUM_COLOURS)))


def random_colours(rng: np.random.Generator) -> ColourPermutation:
    """A permutation of the colours 1 to 9, all equally likely.

    Colour 0 stays: most tasks use it as the background, and translations fill with it. (The released code keeps 0 too,
    but prefers colours that the task does not use.)
    """
    return ColourPermutation(new_colours=(0, *(1 + rng.permutation(NUM_COLOURS - 1)).tolist()))
