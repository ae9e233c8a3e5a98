"""Records that a run stores: attempts at an edit, rows of the ReST-EM buffer, and a rank's statistics per phase."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from seal_lightning.core.exam_records import AuxiliaryExam, ExamScores, Rating, mean
from seal_lightning.core.plans import AdaptationPlan, Prompt, SelfEdit, Task
from seal_lightning.core.seeds import attempt_id

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|\b(?:nan|inf)\b)")


class AttemptStatus(StrEnum):
    """Outcome of an attempt."""

    SCORED = "scored"
    UNSCORED = "unscored"
    """Adapted, but without a reward: the grader could score no answer, or a judge was down; see ``failure``."""
    MALFORMED = "malformed"
    """The edit means no plan; nothing was trained."""
    DIVERGED = "diverged"
    """The inner loop failed; see ``failure``."""


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Size of an adaptation plan, small enough to be stored with every attempt."""

    num_sequences: int
    num_steps: int
    num_tokens: int
    """Tokens trained on, all epochs together."""
    learning_rate: float
    rank: int
    dropped_sequences: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One edit to be tried once: the input of an attempt."""

    task: Task
    edit: SelfEdit
    round: int
    repeat: int
    seed: int
    plan: AdaptationPlan | None = None
    """Plan to use instead of the domain's (a sweep over settings)."""
    custom_id: str | None = None
    """Attempt id to use instead of the one derived from round, task, edit and repeat."""

    @property
    def attempt_id(self) -> str:
        """The id of the attempt at this trial."""
        return self.custom_id or attempt_id(self.round, self.task.task_id, self.edit.edit_index, self.repeat)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One edit, tried once: the unit that is stored, resumed from and replayed."""

    attempt_id: str
    """``r{round}-{task id}-e{edit index}-s{repeat}``, see :func:`seal_lightning.core.seeds.attempt_id`."""
    round: int
    repeat: int
    """0 … repeats−1: repeats of an edit differ in the inner loop's seed only."""
    seed: int
    """Seed of the inner loop."""
    edit: SelfEdit
    status: AttemptStatus
    failure: str | None = None
    plan: PlanSummary | None = None
    before: ExamScores | None = None
    """The task's exam without adaptation, shared by all its attempts in a round."""
    after: ExamScores | None = None
    auxiliary_exams: dict[str, AuxiliaryExam] = field(default_factory=dict)
    """Other exams that the reward needs, by name: the policy's own questions, or a probe of earlier knowledge."""
    ratings: dict[str, Rating] = field(default_factory=dict)
    """Raters' marks for the edit itself, by name."""
    final_loss: float | None = None
    reward: float | None = None
    reward_breakdown: dict[str, float] = field(default_factory=dict)
    adapt_seconds: float = 0.0
    examine_seconds: float = 0.0
    """Time of exams and judging; of a batch, an equal share."""

    @property
    def unadapted(self) -> Attempt:
        """The same attempt with every exam's scores after adaptation replaced by those before."""
        auxiliary = {name: replace(exam, after=exam.before) for name, exam in self.auxiliary_exams.items()}
        return replace(self, after=self.before, auxiliary_exams=auxiliary)

    @property
    def task_id(self) -> str:
        """The task of the edit."""
        return self.edit.task_id

    @property
    def failure_kind(self) -> str | None:
        """The failure up to its first colon, with numbers replaced by ``#`` so that equal failures can be counted."""
        return None if self.failure is None else _NUMBER.sub("#", self.failure.split(":", 1)[0])[:80]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One edit with all its repeats, the input of a reward filter (reward = mean over inner seeds, §3.2).

    Example:
        >>> edit = SelfEdit(task_id="t", edit_index=0, text="Water boils at 100 °C.")
        >>> first, second = (
        ...     Attempt(attempt_id=f"r0-t-e0-s{i}", round=0, repeat=i, seed=i, edit=edit, status="scored", reward=reward)
        ...     for i, reward in enumerate((0.25, 0.75))
        ... )
        >>> Candidate(task_id="t", edit_index=0, attempts=(first, second)).reward
        0.5
    """

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
    """Tokens that the M-step trains on, see :attr:`SelfEdit.token_ids`."""
    reward: float
    chosen: tuple[bool, ...] | None = None
    """See :attr:`SelfEdit.chosen`."""


@dataclass(frozen=True, kw_only=True)
class RankPhase:
    """Time and memory of one rank in one E-step or M-step, since the phase began or was resumed.

    Validation belongs to the M-step before it.
    """

    rank: int
    host: str
    phase: Literal["e_step", "m_step"]
    seconds: float
    split: Mapping[str, float]
    """Seconds by activity (:data:`seal_lightning.distributed.timers.ACTIVITIES`, and ``other``); the sum is ``seconds``."""
    num_attempts: int = 0
    """Attempts stored by this rank."""
    num_tokens: int = 0
    """Tokens trained on in its inner loops, all epochs together."""
    gpu_memory_bytes: int | None = None
    """Peak of torch's allocations; None without a CUDA device."""
    gpu_utilisation: float | None = None
    """Per cent, the mean over samples at attempts and steps; None without ``nvidia-ml-py``."""

    @property
    def busy_seconds(self) -> float:
        """Seconds not spent waiting for other ranks."""
        return self.seconds - self.split.get("idle", 0.0)
