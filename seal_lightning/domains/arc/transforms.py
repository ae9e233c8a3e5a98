"""Invertible maps of grids: the symmetries of the square, and permutations of the colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seal_lightning.domains.arc.grids import NUM_COLOURS, GridArray

GridMap = Callable[[GridArray], GridArray]
"""[rows, columns] to [rows, columns], possibly of another size. The result may be a view: nothing here writes to grids."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A rearrangement of a grid's cells with its inverse."""

    name: str
    apply: GridMap
    inverse: GridMap


def _rotation(quarter_turns: int) -> GridMap:
    return lambda array: np.rot90(array, quarter_turns)


TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform(name="identity", apply=_rotation(0), inverse=_rotation(0)),
        Transform(name="rot90", apply=_rotation(1), inverse=_rotation(3)),  # against the clock
        Transform(name="rot180", apply=_rotation(2), inverse=_rotation(2)),
        Transform(name="rot270", apply=_rotation(3), inverse=_rotation(1)),
        Transform(name="flip_lr", apply=np.fliplr, inverse=np.fliplr),
        Transform(name="flip_ud", apply=np.flipud, inverse=np.flipud),
        Transform(name="transpose", apply=np.transpose, inverse=np.transpose),
    )
}
"""Transforms by name: of the augmentations, the exam votes over these only, as a predicted grid can be mapped back."""


def random_colours(rng: np.random.Generator) -> GridMap:
    """Draw a permutation of the colours 1 to 9, uniformly, as a map of grids.

    Colour 0 stays: most tasks use it as the background, and shifts fill with it. (The released code keeps 0 too, but
    prefers colours that the task does not use.)
    """
    new_colours = np.array((0, *(1 + rng.permutation(NUM_COLOURS - 1)).tolist()), dtype=np.int8)  # [10]
    return lambda array: new_colours[array]
