"""What is read, and what a writer writes about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

JSON = Any
"""What ``json.dumps`` takes. (Spelt out, the type refers to itself, which pydantic cannot follow in an alias.)"""


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


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    """The model chose an end token, or wrote one of the stop strings."""
    LENGTH = "length"
    """``max_new_tokens`` were written."""


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
    chosen: tuple[bool, ...] | None = None
    """Of an edit by constrained decoding: which of its tokens the policy chose; only those are trained. None: all."""
    log_prob: float | None = None
    """Of an edit by constrained decoding: nats of the policy's choices among those allowed, at temperature 1."""
    finish_reason: FinishReason | None = None
    seed: int = 0
    refused: tuple[str, ...] = ()
    """The kinds of the malformed edits that were sampled in its place before, in order."""
    directives: dict[str, JSON] = field(default_factory=dict)
    """Update directives by name, as a schema's choices were filled in."""
