"""One edit tried: the trial, the attempt that is stored, the candidate a filter sees, the buffer's row."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from seal_lightning.core.bounds import mean
from seal_lightning.core.edits import Prompt, SelfEdit, Task
from seal_lightning.core.exam_records import AuxiliaryExam, ExamScores, Rating
from seal_lightning.core.plans import AdaptationPlan
from seal_lightning.core.seeds import attempt_id

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|\b(?:nan|inf)\b)")


class AttemptStatus(StrEnum):
    """How an attempt ended."""

    SCORED = "scored"
    UNSCORED = "unscored"
    """Well formed, but it has no reward: the grader could score none of the answers, a judge was down; see ``failure``."""
    MALFORMED = "malformed"
    """The edit has no meaning as a plan; nothing was trained."""
    DIVERGED = "diverged"
    """The inner loop failed; see ``failure``."""


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """The size of an adaptation plan, small enough to be stored with every attempt."""

    num_sequences: int
    num_steps: int
    num_tokens: int
    """Tokens trained on, all epochs together."""
    learning_rate: float
    rank: int
    dropped_sequences: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One edit that is to be tried once."""

    task: Task
    edit: SelfEdit
    round: int
    repeat: int
    seed: int
    plan: AdaptationPlan | None = None
    """The plan to train, where it is not the domain's plan of the edit (a sweep over settings)."""
    custom_id: str | None = None
    """The attempt's id, where it is not made of round, task, edit and repeat."""

    @property
    def attempt_id(self) -> str:
        """The id of the attempt that comes of this trial."""
        return self.custom_id or attempt_id(self.round, self.task.task_id, self.edit.edit_index, self.repeat)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One edit, tried once: the unit that is stored, resumed from and replayed."""

    attempt_id: str
    """``r{round}-{task id}-e{edit index}-s{repeat}``, see :func:`seal_lightning.core.seeds.attempt_id`."""
    round: int
    repeat: int
    """0 … repeats−1: the inner loop's seed differs, the edit does not."""
    seed: int
    """Seeds the inner loop."""
    edit: SelfEdit
    status: AttemptStatus
    failure: str | None = None
    plan: PlanSummary | None = None
    before: ExamScores | None = None
    """The task's exam without adaptation, shared by all attempts at it in a round."""
    after: ExamScores | None = None
    auxiliary_exams: dict[str, AuxiliaryExam] = field(default_factory=dict)
    """What else the reward had the adapted model asked, by name: questions of its own, a probe of what it knew."""
    ratings: dict[str, Rating] = field(default_factory=dict)
    """What raters made of the edit itself, by name."""
    final_loss: float | None = None
    reward: float | None = None
    reward_breakdown: dict[str, float] = field(default_factory=dict)
    adapt_seconds: float = 0.0
    examine_seconds: float = 0.0
    """Of exams and judging, where many were done together by equal shares."""

    @property
    def unadapted(self) -> Attempt:
        """As if nothing had been learned: every exam after is the one before."""
        further = {name: replace(exam, after=exam.before) for name, exam in self.auxiliary_exams.items()}
        return replace(self, after=self.before, auxiliary_exams=further)

    @property
    def task_id(self) -> str:
        """The task the edit is about."""
        return self.edit.task_id

    @property
    def failure_kind(self) -> str | None:
        """What stands before the failure's first colon; numbers become ``#``, or each loss would be a kind of its own."""
        return None if self.failure is None else _NUMBER.sub("#", self.failure.split(":", 1)[0])[:80]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One edit with its repeats, as a reward filter sees it (the reward's mean over inner seeds, §3.2)."""

    task_id: str
    edit_index: int
    attempts: tuple[Attempt, ...]

    @property
    def reward(self) -> float | None:
        """Mean reward over the scored repeats; −inf when a repeat was malformed or diverged; None when none was scored."""
        if any(a.status in (AttemptStatus.MALFORMED, AttemptStatus.DIVERGED) for a in self.attempts):
            return float("-inf")
        return mean([a.reward for a in self.attempts if a.reward is not None])


@dataclass(frozen=True, kw_only=True)
class BufferRow:
    """An accepted (prompt, edit) pair: one row of the M-step's data."""

    task_id: str
    edit_index: int
    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]
    """What the M-step trains on, see :attr:`SelfEdit.token_ids`."""
    reward: float
    chosen: tuple[bool, ...] | None = None
    """See :attr:`SelfEdit.chosen`."""
