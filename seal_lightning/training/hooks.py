"""A Lightning callback with the hooks that SEAL adds: after each attempt, after each E-step, after each test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    from seal_lightning.core.evaluation_records import ConditionResult
from seal_lightning.core import Attempt, BufferRow, Candidate
from seal_lightning.storage.attempt_store import AttemptStore


class SealCallback(Callback):
    """A Lightning callback with SEAL's hooks; all are empty.

    Example:
        >>> class Printer(SealCallback):
        ...     def on_attempt(self, trainer, pl_module, attempt):
        ...         print(attempt.attempt_id, attempt.reward)
        >>> Printer().fills_buffer
        False
    """

    fills_buffer = False
    """Whether the callback hands each E-step's accepted edits to the data module."""

    def attempt_store(self, trainer: Trainer, round_index: int) -> AttemptStore | None:
        """Return the store of a round's attempts; None for a callback that keeps none."""
        return None

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Attempt) -> None:
        """Called on the attempt's rank, in the E-step, after the attempt was stored."""

    def on_buffer(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        candidates: Sequence[Candidate],
        buffer: Sequence[BufferRow],
    ) -> None:
        """Called on all ranks at the E-step's end with all ranks' candidates and the accepted rows."""

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Called on all ranks at the end of a test with all ranks' results."""


def seal_callbacks(trainer: Trainer) -> Iterator[SealCallback]:
    """Yield the trainer's callbacks that have SEAL's hooks."""
    return (callback for callback in trainer.callbacks if isinstance(callback, SealCallback))  # type: ignore[attr-defined]
