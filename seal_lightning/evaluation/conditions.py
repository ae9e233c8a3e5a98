"""What a test measures: the conditions a held-out task is met under, and one task's result under one of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from seal_lightning.core import ExamScores, SelfEdit
from seal_lightning.evaluation.mitigations.base import MergeDecision

ConditionName = Literal["in_context", "without_edit", "without_edit_matched", "self_edit"]
"""A :class:`Condition` that can be left out, as configurations say it. Other writers and adapters from outside are met
where they are named."""


class Condition(StrEnum):
    """How a held-out task is met."""

    NO_ADAPTATION = "no_adaptation"
    IN_CONTEXT = "in_context"
    """The context is in the prompt: a reference, not a ceiling."""
    OUTSIDE_ADAPTER = "outside_adapter"
    """With a ready adapter that was trained elsewhere."""
    WITHOUT_EDIT = "without_edit"
    """Adapted on the context alone: the passage, or a fixed test-time-training configuration."""
    WITHOUT_EDIT_MATCHED = "without_edit_matched"
    """The same for as many optimiser steps as the final round's edits get in the same place; of several, their mean."""
    OTHER_WRITER = "other_writer"
    """Adapted on edits that another writer wrote: a file, another method."""
    SELF_EDIT = "self_edit"
    """Adapted on self-edits of the policy."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A condition, and whose edits or which policy it is about."""

    condition: Condition
    round: int
    """How many rounds the policy was trained for; 0 is the pretrained model."""
    name: str = ""
    """Of another writer or of an adapter from outside, as the configuration calls it."""


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """One task under one condition, examined once: a cell of an episode's matrix."""

    condition: Condition
    round: int
    """See :attr:`Arm.round`."""
    task_id: str
    scores: ExamScores
    name: str = ""
    """See :attr:`Arm.name`."""
    sequence: int = 0
    """Which of the protocol's episodes."""
    step: int = 1
    """After how many of the episode's steps the task was examined; 0 is before any."""
    place: int = 0
    """The task's place among the tasks of its episode, in the order of the steps."""
    taught: bool = False
    """Whether the step just before the exam was about this task."""
    num_steps: int = 0
    """Optimiser steps of the adaptation."""
    num_sequences: int = 0
    """Sequences trained on."""
    num_tokens: float = 0.0
    """Tokens trained on, all epochs together; those of a step that is examined on n tasks count 1/n to each."""
    merge: MergeDecision | None = None
    """What a gate let be merged of the step that was about this task; None where there is no gate, or nothing to merge."""
    failure: str | None = None
    """Why nothing could be learned from the task's edits (malformed, divergence). Unless others in the same step could be
    learned from, the scores are those without adaptation."""
    failed_edits: int = 0
    """How many of the task's edits were malformed or diverged."""
    edits: tuple[SelfEdit, ...] = ()
    """What was written about this task, where the step was about it."""
    adapt_seconds: float = 0.0
    """As ``num_tokens``, the task's share."""

    @property
    def arm(self) -> Arm:
        """What the result is about."""
        return Arm(condition=self.condition, round=self.round, name=self.name)
