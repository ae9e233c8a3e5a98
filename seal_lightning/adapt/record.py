"""What an adapted folder says about itself: from what it was made, how, and what its exams found. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Literal

from seal_lightning.core import JSON
from seal_lightning.core.estimates import Estimate

RECORD_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model whose weights the adapter changes: the fields of :class:`seal_lightning.models.pretrained.Pretrained`."""

    source: str
    """A hub id, a local folder or ``embedded``."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the model was asked in its exams, so that it is asked the same way later."""

    style: Literal["base", "chat"] = "base"
    """``base``: lines with headings, which the model continues; ``chat``: one user turn."""
    topic: str = "Topic:"
    """Stands before a title; blank leaves titles out."""
    question: str = "Question:"
    answer: str = "Answer:"
    chat_instruction: str = ""
    """Ends the user's turn of a chat."""
    max_answer_tokens: int = 64
    """≥ 1."""


@dataclass(frozen=True, kw_only=True)
class DocumentRecord:
    """A document that was read."""

    path: str
    """As it was given."""
    sha256: str
    """Of the file's bytes."""
    kind: str
    """How it was read: ``text``, ``markdown``, ``html``, ``pdf``, ``squad``, ``jsonl``."""
    num_passages: int


@dataclass(frozen=True, kw_only=True)
class SkippedRecord:
    """A document, or a part of one, that was left out."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConditionScores:
    """One exam under one condition: means over passages (a probe: over questions) with standard errors."""

    condition: str
    """``before``, ``passages only`` or ``adapted``, and what a reader needs to know of it."""
    log_prob: Estimate | None
    """Mean log-probability of the gold answers' tokens, nats."""
    accuracy: Estimate | None = None
    """In [0, 1]; None where no answers were generated."""
    gain: Estimate | None = None
    """Of the log-probability over ``before``, paired; None of ``before`` itself."""
    over_control: Estimate | None = None
    """Of ``adapted``, its log-probability over that of ``passages only``, paired; None where that was not measured."""


@dataclass(frozen=True, kw_only=True)
class ExamRecord:
    """One exam, the same questions under every condition."""

    name: str
    """``these documents``, ``earlier documents (NAME)`` or ``probe``."""
    num_questions: int
    num_passages: int
    by: str
    """Who wrote the questions: ``the model``, ``the user``, ``this package``."""
    scores: tuple[ConditionScores, ...]
    questions_sha256: str = ""
    """:func:`questions_sha256`: exams of one hash are comparable. Empty: not known."""

    def scores_of(self, condition: str) -> ConditionScores | None:
        """The scores whose condition begins so (``before``, ``adapted``); None where there are none."""
        return next((each for each in self.scores if each.condition.startswith(condition)), None)


def questions_sha256(asked: Iterable[tuple[str, str, str]]) -> str:
    """Of the questions of an exam: (title that is shown, question, first gold answer) each. Their order does not matter."""
    return hashlib.sha256(json.dumps(sorted(asked)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class MergedFrom:
    """How the updates of several adapted folders became one: ``settings["merged"]`` of a record."""

    weights: dict[str, float]
    """By the folder's name."""
    max_rank: int | None
    rank: int
    """≥ 1, of the sum."""
    sum_of_ranks: int
    left_out_of_the_norm: float
    """In [0, 1]: of the whole update's norm, by truncation."""


@dataclass(frozen=True, kw_only=True)
class AdaptedRecord:
    """``adapted.json``: an adapted folder's description of itself. It is written last, so where it is, all is."""

    version: int = RECORD_VERSION
    base: BaseModel
    asking: Asking
    documents: tuple[DocumentRecord, ...] = ()
    skipped: tuple[SkippedRecord, ...] = ()
    exams: tuple[ExamRecord, ...] = ()
    earlier: tuple[str, ...] = ()
    """Names of the adapted folders whose updates are part of this one's, oldest first."""
    num_passages: int = 0
    num_edits: int = 0
    """Tried."""
    num_kept: int = 0
    """Of these, trained on."""
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, resumed work included."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of this package and of those it stands on."""
    settings: dict[str, JSON] = field(default_factory=dict)
    """Every setting, as a configuration file would say it."""


def held_before(record: AdaptedRecord) -> tuple[str, ...]:
    """What was in the base's weights already when the exams' ``before`` was measured: earlier adaptations, oldest first, or
    the policy of a run; none where ``before`` is the base as it is.

    A run is told by ``settings["start"]``, as ``StartingModel.identity`` has it: ``run``, its path, and ``rounds``.
    """
    if record.earlier:
        return record.earlier
    start = record.settings.get("start")
    if not isinstance(start, dict) or not isinstance(start.get("run"), str) or not start.get("rounds"):
        return ()
    return (f"the policy of the run {PureWindowsPath(str(start['run'])).name}",)
