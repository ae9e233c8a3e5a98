"""The records that travel through SEAL; read this file and you know the system.

    task ─ propose ─▶ self-edit ─ plan ─▶ adaptation plan ─ adapt ─▶ adapter ─ examine ─▶ attempt ─ filter ─▶ buffer

Every record is frozen and keyword-only, knows no tensor and no model, and (adapters aside) survives a round trip through
JSON. Section numbers refer to the paper, arXiv 2506.10943.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from seal_lightning.errors import ConfigError, shown

JSON = Any
"""What ``json.dumps`` takes. (Spelt out, the type refers to itself, which pydantic cannot follow in an alias.)"""


# --- what is read, and what the policy writes about it ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """A context and the questions that examine what was learned from it: the pair (C, τ) of §3.1. Domains subclass it."""

    task_id: str
    """Unique within a data set and stable between runs: seeds and attempt ids are made from it."""


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[ChatMessage, ...]
"""Plain text that a base model continues, or chat turns that are put through the model's chat template."""


@dataclass(frozen=True, kw_only=True)
class SelfEdit:
    """What a writer wrote about a task: finetuning data and update directives (SE of §3.1)."""

    task_id: str
    edit_index: int
    """0 … k−1 among the edits of its task and round."""
    text: str
    token_ids: tuple[int, ...] = ()
    """The tokens the policy chose, the stop token among them when it chose to stop; empty when a file or another model
    wrote the edit. The M-step trains on exactly these."""
    finish_reason: FinishReason | None = None
    seed: int = 0
    directives: dict[str, JSON] = field(default_factory=dict)


# --- what an edit means: the adaptation plan -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a training sequence. Segments are tokenised apart, so a loss mask is never searched for."""

    text: str
    trained: bool = True
    """Whether the loss counts this segment's tokens."""


@dataclass(frozen=True, kw_only=True)
class TrainingSequence:
    """One sequence of the inner loop's data: the segments' tokens, joined."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """A LoRA adapter, in the terms of :class:`peft.LoraConfig`."""

    rank: int = 32
    """≥ 1."""
    alpha: float = 64.0
    """> 0; the update is scaled by alpha / rank (by alpha / √rank with ``use_rslora``)."""
    dropout: float = 0.0
    """In [0, 1); applied to the adapter's input while training."""
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = None
    """Module names as PEFT matches them; None takes PEFT's default for the architecture (q and v for Llama and Qwen)."""
    layers: tuple[int, ...] | None = None
    """Indices of the decoder layers that get the adapter; None means all."""
    use_rslora: bool = False

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "adapter.rank", self.rank, "at least 1")
        _require(0 < self.alpha < math.inf, "adapter.alpha", self.alpha, "above 0 and finite")
        _require(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "in [0, 1)")
        modules, layers = self.target_modules, self.layers
        _require(modules != (), "adapter.target_modules", modules, "null, 'all-linear' or at least one name")
        _require(layers is None or (layers != () and min(layers) >= 0), "adapter.layers", layers, "null or indices ≥ 0")


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW with a schedule: how the inner loop, or the M-step, trains."""

    learning_rate: float = 1e-3
    """> 0, the peak of the schedule."""
    num_epochs: int = 10
    """≥ 1, passes over the sequences."""
    batch_size: int = 1
    """≥ 1, sequences an optimiser step; the loss is the mean over the batch's trained tokens."""
    max_steps: int | None = None
    """When given, exactly so many optimiser steps, whatever ``num_epochs`` says."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay from the peak to zero over all steps."""
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    """Clip the gradient's 2-norm; None never clips."""

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < math.inf, "optimizer.learning_rate", self.learning_rate, "above 0 and finite")
        _require(self.num_epochs >= 1, "optimizer.num_epochs", self.num_epochs, "at least 1")
        _require(self.batch_size >= 1, "optimizer.batch_size", self.batch_size, "at least 1")
        _require(self.max_steps is None or self.max_steps >= 1, "optimizer.max_steps", self.max_steps, "at least 1")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        _require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0, finite")
        clip = self.max_grad_norm
        _require(clip is None or 0 < clip < math.inf, "optimizer.max_grad_norm", clip, "above 0 and finite, or null")


@dataclass(frozen=True, kw_only=True)
class AdaptationPlan:
    """What a self-edit means: the data, the adapter and the optimiser of one inner-loop run. One type for every domain."""

    sequences: tuple[TrainingSequence, ...]
    adapter: AdapterSpec
    optimizer: OptimizerSpec
    dropped_sequences: int = 0
    """How many sequences of the edit were over the domain's cap and left out."""

    @property
    def num_steps(self) -> int:
        """Optimiser steps this plan takes: ⌈sequences / batch⌉ an epoch, or ``max_steps``."""
        if self.optimizer.max_steps is not None:
            return self.optimizer.max_steps
        return self.optimizer.num_epochs * -(-len(self.sequences) // self.optimizer.batch_size)


class Adapter:
    """Adapted weights as an inner loop returns them and an engine applies them; opaque to everything between."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An inner-loop run that ended well."""

    adapter: Adapter
    losses: tuple[float, ...]
    """One per optimiser step, the batch's loss before the step."""
    num_tokens: int
    """Tokens pushed through the model in training, all epochs together; no pads."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Diverged:
    """An inner-loop run that failed alone: its loss or gradient became NaN or infinite, or it did not fit."""

    reason: str
    step: int
    """The optimiser step, counted from 0, at which it failed."""
    seconds: float = 0.0


# --- asking a model ----------------------------------------------------------------------------------------------------


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The model chose an end token, or wrote one of the stop strings."""
    LENGTH = "length"
    """``max_new_tokens`` were written."""


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 0.95
    """In (0, 1]: sample from the smallest set of tokens whose probabilities sum to at least this."""
    max_new_tokens: int = 8192
    """≥ 1."""
    stop: tuple[str, ...] = ()
    """The completion ends before the first of these strings."""

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "sampling.temperature", self.temperature, "at least 0 and finite")
        _require(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "in (0, 1]")
        _require(self.max_new_tokens >= 1, "sampling.max_new_tokens", self.max_new_tokens, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One completion that is asked for."""

    prompt: Prompt
    sampling: SamplingSpec
    adapter: Adapter | None = None
    seed: int = 0
    """Seeds this request's own generator: its neighbours in a batch change nothing but rounding."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A target whose log-probability after a prompt is asked for."""

    prompt: Prompt
    target: str
    adapter: Adapter | None = None


# --- examining ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ExamPrompt:
    """One question as it is put to a model. Several views (ARC's transformed grids) may serve one question."""

    question_id: str
    prompt: Prompt
    target: str
    """The gold answer exactly as it would continue the prompt; its log-probability is the likelihood score."""
    max_new_tokens: int
    view: str = "identity"
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question, its gold answers and a model's answer, as a grader sees them."""

    question_id: str
    question: str
    gold_answers: tuple[str, ...]
    """At least one; matching any of them is right."""
    answer: str


class VerdictStatus(StrEnum):
    """A grader's finding. ``UNSCORED`` is no kind of wrong: it is shown and left out of every mean."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNSCORED = "unscored"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A grader's finding on one answer, with what led to it."""

    question_id: str
    status: VerdictStatus
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionScore:
    """What was measured on one question. None means: was not measured."""

    question_id: str
    log_prob: float | None = None
    """Mean log-probability (nats) of the gold answer's tokens, ≤ 0."""
    num_target_tokens: int = 0
    answer: str | None = None
    verdict: Verdict | None = None
    exact_match: float | None = None
    """0 or 1, after SQuAD normalisation."""
    f1: float | None = None
    """Token overlap in [0, 1], after SQuAD normalisation."""


@dataclass(frozen=True, kw_only=True)
class ExamScores:
    """What was measured on one task's questions."""

    questions: tuple[QuestionScore, ...]

    @property
    def log_prob(self) -> float | None:
        """Mean over the questions of their ``log_prob``; None if none was measured."""
        return _mean([q.log_prob for q in self.questions if q.log_prob is not None])

    @property
    def accuracy(self) -> float | None:
        """Share of the scored answers that are correct; None if none was scored."""
        verdicts = [q.verdict.status for q in self.questions if q.verdict is not None]
        return _mean([float(s is VerdictStatus.CORRECT) for s in verdicts if s is not VerdictStatus.UNSCORED])

    @property
    def exact_match(self) -> float | None:
        """Mean exact match; None if no text was generated."""
        return _mean([q.exact_match for q in self.questions if q.exact_match is not None])

    @property
    def f1(self) -> float | None:
        """Mean token F1; None if no text was generated."""
        return _mean([q.f1 for q in self.questions if q.f1 is not None])

    @property
    def num_unscored(self) -> int:
        """Answers that the grader could not score."""
        return sum(q.verdict is not None and q.verdict.status is VerdictStatus.UNSCORED for q in self.questions)


class Measurement(StrEnum):
    """What a reward needs to see; nothing else is measured."""

    LIKELIHOOD = "likelihood"
    ANSWERS = "answers"


@dataclass(frozen=True, kw_only=True)
class RewardScore:
    """A reward and what it is made of. A value of None means: could not be scored."""

    value: float | None
    breakdown: dict[str, float] = field(default_factory=dict)


# --- trying an edit ------------------------------------------------------------------------------------------------------


class AttemptStatus(StrEnum):
    """How an attempt ended."""

    SCORED = "scored"
    UNSCORED = "unscored"
    """Adapted, but the grader could score none of the answers."""
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


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One edit, tried once: the unit that is stored, resumed from and replayed."""

    attempt_id: str
    """``r{round}-{task id}-e{edit index}-s{repeat}``, see :func:`seal_lightning.seeds.attempt_id`."""
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
    final_loss: float | None = None
    reward: float | None = None
    reward_breakdown: dict[str, float] = field(default_factory=dict)
    adapt_seconds: float = 0.0
    examine_seconds: float = 0.0

    @property
    def task_id(self) -> str:
        """The task the edit is about."""
        return self.edit.task_id


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
        return _mean([a.reward for a in self.attempts if a.reward is not None])


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


def _require(allowed: bool, field_name: str, value: object, what: str) -> None:
    """Raise :class:`ConfigError` unless ``allowed``."""
    if not allowed:
        raise ConfigError(f"{field_name}: {shown(value)} is not allowed; it must be {what}")


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
