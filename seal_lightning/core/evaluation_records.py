"""Records of a test on held-out tasks, as ``results/test.json`` stores them: conditions, results, table and matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from seal_lightning.core.estimates import Estimate
from seal_lightning.core.exam_records import ConditionNames, ExamScores
from seal_lightning.core.forgetting_curve import Retention
from seal_lightning.core.plans import SelfEdit

SINGLE_PASSAGE = "single passage"
"""The protocol that learns each task alone."""

ConditionName = Literal["in_context", "without_edit", "without_edit_matched", "self_edit"]
"""A :class:`Condition` that a configuration can leave out."""


class Condition(StrEnum):
    """The condition under which a held-out task is examined, in the order of a table's rows."""

    NO_ADAPTATION = "no_adaptation"
    IN_CONTEXT = "in_context"
    """The context is in the prompt: a reference, not a ceiling."""
    OUTSIDE_ADAPTER = "outside_adapter"
    """With an existing adapter that was trained elsewhere."""
    WITHOUT_EDIT = "without_edit"
    """Adapted on the context alone: the passage, or a fixed test-time-training configuration."""
    WITHOUT_EDIT_MATCHED = "without_edit_matched"
    """The same for as many optimiser steps as the final round's edits take in the same place (their mean)."""
    OTHER_WRITER = "other_writer"
    """Adapted on edits of another writer: a file, another method."""
    SELF_EDIT = "self_edit"
    """Adapted on self-edits of the policy."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A condition with the policy round or the name that it is about."""

    condition: Condition
    round: int
    """Rounds the policy was trained for; 0 is the pretrained model."""
    name: str = ""
    """Of another writer or of an outside adapter, as the configuration calls it."""

    def label(self, names: ConditionNames) -> str:
        """Return the condition as a table calls it."""
        trained = "before training" if self.round == 0 else f"after round {self.round}"
        return {
            Condition.NO_ADAPTATION: f"{names.unadapted}, policy {trained}",
            Condition.IN_CONTEXT: names.in_context,
            Condition.OUTSIDE_ADAPTER: f"adapter {self.name}",
            Condition.WITHOUT_EDIT: names.without_edit,
            Condition.WITHOUT_EDIT_MATCHED: f"{names.without_edit} at the final edit's steps, policy {trained}",
            Condition.OTHER_WRITER: f"{names.other_writer} {self.name}",
            Condition.SELF_EDIT: f"{names.self_edit} {trained}",
        }[self.condition]


@dataclass(frozen=True, kw_only=True)
class MergeDecision:
    """The decision of a merge gate on a step's update."""

    factor: float
    """In [0, 1], the share of the update that was merged; 0: refused."""
    probe_loss: float | None
    """Mean loss of the probe texts, nats per token (if refused: by the smallest share that was tried). None if not finite."""


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
    """Index of the episode."""
    step: int = 1
    """Number of the episode's steps before this exam; 0 is before any adaptation."""
    place: int = 0
    """Index of the task among the tasks of its episode, in the order of the steps."""
    taught: bool = False
    """Whether the step just before the exam was about this task."""
    num_steps: int = 0
    """Optimiser steps of the adaptation."""
    num_sequences: int = 0
    """Sequences trained on."""
    num_tokens: float = 0.0
    """Tokens trained on, all epochs together; those of a step that is examined on n tasks count 1/n for each."""
    merge: MergeDecision | None = None
    """The gate's decision on the step about this task; None without a gate or without anything to merge."""
    failure: str | None = None
    """Why nothing was learned from the task's edits (malformed, diverged). The scores are then those without adaptation,
    unless other edits of the same step were learned."""
    failed_edits: int = 0
    """Edits of the task that were malformed or diverged."""
    edits: tuple[SelfEdit, ...] = ()
    """Edits about this task, where the step was about it."""
    adapt_seconds: float = 0.0
    """The task's share, as for ``num_tokens``."""

    @property
    def arm(self) -> Arm:
        """The condition with its round and name."""
        return Arm(condition=self.condition, round=self.round, name=self.name)


@dataclass(frozen=True, kw_only=True)
class ConditionRow:
    """One condition's row of the table. Estimates are None where nothing was measured."""

    label: str
    condition: Condition
    round: int
    name: str = ""
    """See :attr:`Arm.name`."""
    num_tasks: int
    """Tasks that are examined: those with a question."""
    num_questions: int
    num_failed: int = 0
    """Malformed edits and diverged adapters, each edit counted; they count with the scores without adaptation, but never as
    solved."""
    num_merges: int = 0
    """Steps whose merge a gate decided on."""
    num_scaled: int = 0
    """Of them, those of which a part was merged."""
    num_refused: int = 0
    """Of them, those of which nothing was merged: the task is examined on what was known before."""
    num_unscored: int = 0
    """Answers the grader could not score; they count in no accuracy."""
    num_views: int = 0
    """Texts the model wrote as answers, over all views of all questions; 0 where nothing was learned."""
    num_invalid: int = 0
    """Of them, texts that are not an answer at all (a grid that does not decode)."""
    log_prob: Estimate | None = None
    log_prob_after_own_step: Estimate | None = None
    """Just after each task's own step, where other steps follow; ``log_prob`` is after all of them."""
    solved: Estimate | None = None
    """Share of tasks with every question right; where nothing was learned, nothing is solved."""
    accuracy: Estimate | None = None
    accuracy_after_own_step: Estimate | None = None
    exact_match: Estimate | None = None
    f1: Estimate | None = None
    partial_credit: Estimate | None = None
    """Share of correct cells of a grid."""
    num_steps: Estimate
    log_prob_vs_matched: Estimate | None = None
    """Paired difference, task by task, from the context alone at equal steps on the same policy."""
    log_prob_vs_untrained: Estimate | None = None
    """Paired difference, task by task, from the self-edit before training; for trained policies only."""
    retention: Retention | None = None
    """Of the log-probability, where tasks are learned one after another."""

    @property
    def arm(self) -> Arm:
        """The condition with its round and name."""
        return Arm(condition=self.condition, round=self.round, name=self.name)


Cells = tuple[tuple[float | None, ...], ...]
"""[steps + 1][places]; row 0 is before any step. None where nothing was measured."""


@dataclass(frozen=True, kw_only=True)
class ScoreMatrix:
    """A score over an arm's episodes, by step and place in the sequence."""

    label: str
    score: str
    """``accuracy`` or ``log_prob``."""
    condition: Condition
    round: int
    name: str = ""
    mean: Cells
    standard_deviation: Cells
    """Over all episodes, of a sample (n − 1), as the paper pools it from its runs. None for n < 2."""
    standard_error: Cells
    n: tuple[tuple[int, ...], ...]
    """Episodes."""


@dataclass(frozen=True, kw_only=True)
class ProtocolRecord:
    """The protocol of a test."""

    name: str = SINGLE_PASSAGE
    class_name: str
    settings: dict[str, Any] = field(default_factory=dict)
    num_steps: int = 1
    """Steps of the longest episode."""
    num_sequences: int = 1
    """Episodes."""


@dataclass(frozen=True, kw_only=True)
class TestedModel:
    """The model of a test."""

    __test__ = False  # pytest: not a test case

    pretrained: str
    student: str | None = None
    """Another model that learns from the policy's self-edits."""


@dataclass(frozen=True, kw_only=True)
class HeldOutQuestion:
    """A question with its gold answers."""

    question: str
    gold: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HeldOutTask:
    """A task of a test: its context, and its questions by id."""

    context: str
    questions: dict[str, HeldOutQuestion] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One run of ``seal test``: how it was made, its table and matrices, and every result."""

    format: Literal[3] = 3
    protocol: ProtocolRecord
    model: TestedModel
    inner_loop: str
    """The class of the inner loop."""
    edits_per_task: int
    seed: int
    world_size: int
    device: str
    seconds: float
    """Of the whole test."""
    peak_memory_bytes: int
    """Of the accelerator, else of the process."""
    table: tuple[ConditionRow, ...] = ()
    matrices: tuple[ScoreMatrix, ...] = ()
    tasks: dict[str, HeldOutTask] = field(default_factory=dict)
    """By task id."""
    results: tuple[ConditionResult, ...] = ()
