"""Tasks, self-edits, the adaptation plans that edits mean, and the results of the inner loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from seal_lightning.core.errors import require

JSON = Any
"""A value that ``json.dumps`` takes. (Spelt out, the type refers to itself, which pydantic cannot follow in an alias.)"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A context and the questions that examine what was learned from it: the pair (C, τ) of §3.1. Domains subclass it."""

    task_id: str
    """Unique within a data set and stable between runs: seeds and attempt ids are derived from it."""


@dataclass(frozen=True, kw_only=True)
class ChatMessage:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[ChatMessage, ...]
"""Plain text that a base model continues, or chat turns that are put through the model's chat template."""


class FinishReason(StrEnum):
    """Reason why a completion ended."""

    STOP = "stop"
    """The model chose an end token, or wrote one of the stop strings."""
    LENGTH = "length"
    """``max_new_tokens`` were written."""


@dataclass(frozen=True, kw_only=True)
class SelfEdit:
    """Text that a writer wrote about a task: finetuning data and update directives (SE of §3.1)."""

    task_id: str
    edit_index: int
    """0 … k−1 among the edits of its task and round."""
    text: str
    token_ids: tuple[int, ...] = ()
    """Tokens that the policy chose, including the stop token if it chose to stop; empty when a file or another model
    wrote the edit. The M-step trains on exactly these."""
    chosen: tuple[bool, ...] | None = None
    """Mask over ``token_ids`` of an edit by constrained decoding: tokens that the policy chose are trained. None: all."""
    log_prob: float | None = None
    """Log-probability (nats, ≤ 0) of the policy's choices among those allowed, at temperature 1, by constrained decoding."""
    finish_reason: FinishReason | None = None
    seed: int = 0
    rejected: tuple[str, ...] = ()
    """Kinds of the malformed edits that were sampled in its place before, in order."""
    directives: dict[str, JSON] = field(default_factory=dict)
    """Update directives by name, as a schema's choices were filled in."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a training sequence. Segments are tokenised separately, so the loss mask is known by construction."""

    text: str
    trained: bool = True
    """Whether the loss counts this segment's tokens."""
    role: Literal["system", "user", "assistant"] | None = None
    """With roles (all segments of a sequence have one, or none has), segments are the turns of a chat. A trained answer's
    end token is trained too; the rest of the chat template's text is trained only where all segments are."""


@dataclass(frozen=True, kw_only=True)
class TrainingSequence:
    """One sequence of the inner loop's data: the concatenated tokens of its segments."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """A LoRA adapter, in the terms of :class:`peft.LoraConfig`.

    Example:
        >>> spec = AdapterSpec(rank=16, alpha=32, target_modules=("q_proj", "v_proj"))
        >>> spec.alpha / spec.rank  # scale of the update
        2.0
    """

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
        require(self.rank >= 1, "adapter.rank", self.rank, "at least 1")
        require(0 < self.alpha < math.inf, "adapter.alpha", self.alpha, "above 0 and finite")
        require(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "in [0, 1)")
        modules, layers = self.target_modules, self.layers
        require(modules != (), "adapter.target_modules", modules, "null, 'all-linear' or at least one name")
        require(layers is None or (layers != () and min(layers) >= 0), "adapter.layers", layers, "null or indices ≥ 0")


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW with a learning-rate schedule, for the inner loop or the M-step.

    Example:
        >>> OptimizerSpec(learning_rate=1e-4, num_epochs=3, schedule="cosine").max_grad_norm
        1.0
        >>> OptimizerSpec(learning_rate=0)
        Traceback (most recent call last):
        ...
        seal_lightning.core.errors.ConfigError: optimizer.learning_rate: 0 is not allowed; it must be above 0 and finite
    """

    learning_rate: float = 1e-3
    """> 0, the peak of the schedule."""
    num_epochs: int = 10
    """≥ 1, passes over the sequences."""
    batch_size: int = 1
    """≥ 1, sequences per optimiser step; the loss is the mean over the batch's trained tokens."""
    max_steps: int | None = None
    """Exact number of optimiser steps, whatever ``num_epochs`` says; None: see :attr:`AdaptationPlan.num_steps`."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay from the peak to zero over all steps."""
    warmup_steps: int = 0
    """≥ 0, steps over which the rate rises from zero to the peak."""
    warmup_ratio: float = 0.0
    """In [0, 1): share of all steps that warm up, rounded up; ignored with ``warmup_steps``."""
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    """Clip the gradient's 2-norm; None never clips."""

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "optimizer.learning_rate", self.learning_rate, "above 0 and finite")
        require(self.num_epochs >= 1, "optimizer.num_epochs", self.num_epochs, "at least 1")
        require(self.batch_size >= 1, "optimizer.batch_size", self.batch_size, "at least 1")
        require(self.max_steps is None or self.max_steps >= 1, "optimizer.max_steps", self.max_steps, "at least 1")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "at least 0")
        require(0 <= self.warmup_ratio < 1, "optimizer.warmup_ratio", self.warmup_ratio, "in [0, 1)")
        require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "at least 0, finite")
        clip = self.max_grad_norm
        require(clip is None or 0 < clip < math.inf, "optimizer.max_grad_norm", clip, "above 0 and finite, or null")


@dataclass(frozen=True, kw_only=True)
class AnchorSpec:
    """Texts on which an adapted model must keep its predictions: the step's loss becomes that of the batch + weight · KL.

    KL(before ‖ adapted) over the vocabulary, in nats, is the mean over the trained tokens of the step's anchor texts.
    """

    sequences: tuple[TrainingSequence, ...]
    """At least one."""
    weight: float = 1.0
    """> 0."""
    batch_size: int | None = None
    """≥ 1, anchor texts per optimiser step, in turn; None takes all of them in every step."""

    def __post_init__(self) -> None:
        require(len(self.sequences) > 0, "anchor.sequences", self.sequences, "at least one text")
        require(0 < self.weight < math.inf, "anchor.weight", self.weight, "above 0 and finite")
        size = self.batch_size
        require(size is None or size >= 1, "anchor.batch_size", size, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class AdaptationPlan:
    """The meaning of a self-edit: data, adapter and optimiser of one inner-loop run. One type for every domain."""

    sequences: tuple[TrainingSequence, ...]
    adapter: AdapterSpec
    optimizer: OptimizerSpec
    dropped_sequences: int = 0
    """Sequences of the edit over the domain's cap, which were discarded."""
    anchor: AnchorSpec | None = None
    """Texts on which predictions are kept; only for inner loops with ``uses_anchor``."""
    steps_per_epoch: int | None = None
    """Steps over which each epoch's sequences are spread evenly; None: batches of ``batch_size``."""

    def __post_init__(self) -> None:
        steps = self.steps_per_epoch
        require(steps is None or steps >= 1, "plan.steps_per_epoch", steps, "at least 1, or null")

    @property
    def num_steps(self) -> int:
        """Optimiser steps of this plan: ⌈sequences / batch⌉ or ``steps_per_epoch`` per epoch, or ``max_steps``."""
        if self.optimizer.max_steps is not None:
            return self.optimizer.max_steps
        return self.optimizer.num_epochs * self.num_batches(len(self.sequences))

    def num_batches(self, num_sequences: int) -> int:
        """Return the steps of one pass over so many sequences."""
        return self.steps_per_epoch or -(-num_sequences // self.optimizer.batch_size)


class Adapter:
    """Adapted weights as an inner loop returns them and an engine applies them; opaque to everything between."""


class WholeModel(Adapter, ABC):
    """Adapted weights that replace the model's own, so only one such adapter can be applied at a time."""

    @abstractmethod
    def installed(self) -> AbstractContextManager[None]:
        """Return a context manager inside which the model has these weights; on exit it has its own again."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """The result of an inner-loop run that succeeded."""

    adapter: Adapter
    losses: tuple[float, ...]
    """One per optimiser step: the batch's loss before the step, including the anchor's term."""
    num_tokens: int
    """Tokens pushed through the model in training, all epochs together; no pads."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Diverged:
    """The result of an inner-loop run that failed: its loss or gradient became NaN or infinite, or memory ran out."""

    reason: str
    step: int
    """The optimiser step, counted from 0, at which it failed."""
    seconds: float = 0.0
