"""The training set of a self-edit: puzzles from a task's demonstrations and the chosen augmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.domains.arc.augmenters import MENU, Puzzle, leave_out
from seal_lightning.domains.arc.grids import ArcTask, as_text
from seal_lightning.domains.arc.transforms import random_colours


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The puzzles to train on, and how many were dropped."""

    puzzles: tuple[Puzzle, ...]
    """All different, in the order of training."""
    num_dropped: int
    """Different puzzles of allowed size that exceeded the allowed number."""
    num_too_large: int
    """Different puzzles over the allowed size; their recoloured twins, which are as large, are not counted."""


def training_puzzles(
    task: ArcTask, groups: Sequence[str], *, leave_two_out: bool, max_puzzles: int, max_size: int, seed: int
) -> TrainingSet:
    """Build the puzzles of a self-edit (§3.2, "Few-shot learning").

    They are the leave-out puzzles and their augmentations, without those that are too large; then each different one
    once more with other colours and its demonstrations in another order (the released code skips this when no group is
    chosen); all shuffled and cut to the allowed number. A task of one demonstration has no puzzles.

    Every variant has its own random draws, so that a group's variants do not depend on the other groups; the order and
    repetition of ``groups`` do not matter.

    Args:
        task: only its demonstrations are used.
        groups: keys of :data:`~seal_lightning.domains.arc.augmenters.MENU`.
        leave_two_out: see :func:`~seal_lightning.domains.arc.augmenters.leave_out`.
        max_puzzles: ≥ 0; the paper has 250.
        max_size: of a puzzle, in :attr:`Puzzle.size`'s cells and rows; the paper allows 8192 tokens.
        seed: seeds all random draws, together with the task's id.

    Raises:
        ConfigError: a group is not on the menu.
    """
    unknown = [group for group in groups if group not in MENU]
    if unknown:
        raise ConfigError(f"augmentations: {shown(unknown[0])} is not on the menu; allowed are {', '.join(MENU)}")
    variants = _variants(task, groups, leave_two_out, seed)
    small = [variant for variant in variants if variant.size <= max_size]  # before the twins, which are as large
    twins = [_recoloured_and_reordered(variant, _twin_seed(variant, task, seed)) for variant in small]
    candidates = list(dict.fromkeys((*small, *twins)))
    order = np.random.default_rng(derive_seed(seed, task.task_id, "order")).permutation(len(candidates))
    taken = tuple(candidates[index] for index in order[:max_puzzles])
    return TrainingSet(
        puzzles=taken, num_dropped=len(candidates) - len(taken), num_too_large=len(variants) - len(small)
    )


def _variants(task: ArcTask, groups: Sequence[str], leave_two_out: bool, seed: int) -> list[Puzzle]:
    """Return the leave-out puzzles, each followed by its augmentations, without duplicates."""
    augmenters = [augmenter for group in MENU if group in groups for augmenter in MENU[group]]
    variants: list[Puzzle | None] = []
    for index, puzzle in enumerate(leave_out(task, leave_two_out)):
        variants.append(puzzle)
        for augmenter in augmenters:
            rng = np.random.default_rng(derive_seed(seed, task.task_id, index, augmenter.name))
            variants.append(augmenter(puzzle, rng))
    return [variant for variant in dict.fromkeys(variants) if variant is not None]


def _twin_seed(variant: Puzzle, task: ArcTask, seed: int) -> int:
    # from the variant itself, not from its augmenter: several augmenters may give the same variant, for some choices only
    return derive_seed(seed, task.task_id, *map(as_text, variant.grids))


def _recoloured_and_reordered(puzzle: Puzzle, seed: int) -> Puzzle:
    rng = np.random.default_rng(seed)
    recoloured = puzzle.mapped(random_colours(rng))
    assert recoloured is not None  # colours do not change shapes
    order = rng.permutation(len(puzzle.demonstrations))
    demonstrations = tuple(recoloured.demonstrations[index] for index in order)
    return Puzzle(demonstrations=demonstrations, query=recoloured.query)
