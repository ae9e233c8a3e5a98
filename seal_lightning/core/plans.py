"""What an edit means, the adaptation plan, and what an inner loop makes of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from seal_lightning.core.bounds import require


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a training sequence. Segments are tokenised apart, so a loss mask is never searched for."""

    text: str
    trained: bool = True
    """Whether the loss counts this segment's tokens."""
    role: Literal["system", "user", "assistant"] | None = None
    """With roles (all segments of a sequence have one, or none has), segments are the turns of a chat. A trained answer's
    end token is trained too; what else the chat template writes is trained where all segments are."""


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
        require(self.rank >= 1, "adapter.rank", self.rank, "at least 1")
        require(0 < self.alpha < math.inf, "adapter.alpha", self.alpha, "above 0 and finite")
        require(0 <= self.dropout < 1, "adapter.dropout", self.dropout, "in [0, 1)")
        modules, layers = self.target_modules, self.layers
        require(modules != (), "adapter.target_modules", modules, "null, 'all-linear' or at least one name")
        require(layers is None or (layers != () and min(layers) >= 0), "adapter.layers", layers, "null or indices ≥ 0")


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
    """≥ 0, steps over which the rate rises from zero to the peak."""
    warmup_ratio: float = 0.0
    """In [0, 1): without ``warmup_steps``, the share of all steps that warms up, rounded up."""
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
    """Texts on which an adapted model is held to what it said before: the step's loss is that of the batch + weight · KL.

    KL(before ‖ adapted) over the vocabulary, in nats, is the mean over the trained tokens of the step's anchor texts.
    """

    sequences: tuple[TrainingSequence, ...]
    """At least one."""
    weight: float = 1.0
    """> 0."""
    batch_size: int | None = None
    """≥ 1, anchor texts an optimiser step, in turn; None takes all of them in every step."""

    def __post_init__(self) -> None:
        require(len(self.sequences) > 0, "anchor.sequences", self.sequences, "at least one text")
        require(0 < self.weight < math.inf, "anchor.weight", self.weight, "above 0 and finite")
        size = self.batch_size
        require(size is None or size >= 1, "anchor.batch_size", size, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class AdaptationPlan:
    """What a self-edit means: the data, the adapter and the optimiser of one inner-loop run. One type for every domain."""

    sequences: tuple[TrainingSequence, ...]
    adapter: AdapterSpec
    optimizer: OptimizerSpec
    dropped_sequences: int = 0
    """How many sequences of the edit were over the domain's cap and left out."""
    anchor: AnchorSpec | None = None
    """What the adapted model is to say as before; only for inner loops that say they hold to it."""
    steps_per_epoch: int | None = None
    """When given, each epoch's sequences are spread evenly over so many steps, instead of batches of ``batch_size``."""

    def __post_init__(self) -> None:
        steps = self.steps_per_epoch
        require(steps is None or steps >= 1, "plan.steps_per_epoch", steps, "at least 1, or null")

    @property
    def num_steps(self) -> int:
        """Optimiser steps this plan takes: ⌈sequences / batch⌉ or ``steps_per_epoch`` an epoch, or ``max_steps``."""
        if self.optimizer.max_steps is not None:
            return self.optimizer.max_steps
        return self.optimizer.num_epochs * self.num_batches(len(self.sequences))

    def num_batches(self, num_sequences: int) -> int:
        """Steps in which so many sequences are gone through once."""
        return self.steps_per_epoch or -(-num_sequences // self.optimizer.batch_size)


class Adapter:
    """Adapted weights as an inner loop returns them and an engine applies them; opaque to everything between."""


class WholeModel(Adapter, ABC):
    """Adapted weights that replace the model's own: of these, one at a time can be asked."""

    @abstractmethod
    def installed(self) -> AbstractContextManager[None]:
        """Inside this block the model has these weights; behind it, its own again."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """An inner-loop run that ended well."""

    adapter: Adapter
    losses: tuple[float, ...]
    """One per optimiser step, the batch's loss before the step; with an anchor, its term included."""
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
