"""ARC tasks: demonstrations of a rule, and test inputs to apply it to."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.core import Task
from seal_lightning.domains.arc.grids import Grid


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """An input grid and what the task's rule makes of it."""

    input: Grid
    output: Grid


@dataclass(frozen=True, kw_only=True)
class TestPair:
    """An input grid to which the rule is to be applied."""

    __test__ = False  # pytest: not a test case

    input: Grid
    output: Grid | None
    """The gold grid; None where it is not published (a Kaggle challenge)."""


@dataclass(frozen=True, kw_only=True)
class ArcTask(Task):
    """A puzzle of ARC-AGI: the demonstrations are the context C of §3.1, the test pairs are τ."""

    demonstrations: tuple[Demonstration, ...]
    """≥ 1."""
    tests: tuple[TestPair, ...]
    """≥ 1."""
