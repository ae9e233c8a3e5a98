"""Questions, verdicts and scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from seal_lightning.core.bounds import mean
from seal_lightning.core.edits import Prompt, Task


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
    """Matching any of them is right; with none the answer cannot be scored."""
    answer: str
    further_answers: tuple[str, ...] = ()
    """Where a question allows several attempts: those after the first. One right attempt is enough."""
    exact: bool = False
    """Right is only what equals a gold answer as it is written (a grid); no grader is asked."""
    partial_credit: float | None = None
    """How nearly right the answer is, in [0, 1], where the domain can tell (the share of a grid's cells)."""
    num_views: int = 1
    """From how many views of the question the answer was made."""
    num_invalid: int = 0
    """In how many of them the model's text was no answer at all."""


@dataclass(frozen=True, kw_only=True)
class ConditionNames:
    """What a domain calls the ways in which a held-out task is met."""

    unadapted: str = "no adaptation"
    in_context: str = "context in the prompt (a reference)"
    without_edit: str = "context only"
    self_edit: str = "self-edit"
    other_writer: str = "edits by"


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
    further_answers: tuple[str, ...] = ()
    verdict: Verdict | None = None
    exact_match: float | None = None
    """0 or 1, after SQuAD normalisation; of an answer that is right only as it is written, whether the verdict is right."""
    f1: float | None = None
    """Token overlap in [0, 1], after SQuAD normalisation."""
    partial_credit: float | None = None
    """In [0, 1], see :attr:`AnsweredQuestion.partial_credit`."""
    num_views: int = 0
    num_invalid: int = 0
    """See :attr:`AnsweredQuestion.num_invalid`."""


@dataclass(frozen=True, kw_only=True)
class ExamScores:
    """What was measured on one task's questions."""

    questions: tuple[QuestionScore, ...]

    @property
    def log_prob(self) -> float | None:
        """Mean over the questions of their ``log_prob``; None if none was measured."""
        return mean([q.log_prob for q in self.questions if q.log_prob is not None])

    @property
    def accuracy(self) -> float | None:
        """Share of the scored answers that are correct; None if none was scored."""
        verdicts = [q.verdict.status for q in self.questions if q.verdict is not None]
        return mean([float(s is VerdictStatus.CORRECT) for s in verdicts if s is not VerdictStatus.UNSCORED])

    @property
    def why_unscored(self) -> str | None:
        """Why the first answer that could not be scored was not; None if all were."""
        verdicts = [q.verdict for q in self.questions if q.verdict is not None]
        return next((v.reason or None for v in verdicts if v.status is VerdictStatus.UNSCORED), None)

    @property
    def exact_match(self) -> float | None:
        """Mean exact match; None if no text was generated."""
        return mean([q.exact_match for q in self.questions if q.exact_match is not None])

    @property
    def f1(self) -> float | None:
        """Mean token F1; None if no text was generated."""
        return mean([q.f1 for q in self.questions if q.f1 is not None])

    @property
    def solved(self) -> float | None:
        """1 when every question is correct, else 0 (a task of ARC); None if one could not be scored, or none was."""
        statuses = [q.verdict.status for q in self.questions if q.verdict is not None]
        if not statuses or VerdictStatus.UNSCORED in statuses:
            return None
        return float(all(s is VerdictStatus.CORRECT for s in statuses))

    @property
    def partial_credit(self) -> float | None:
        """Mean partial credit; None where the domain gives none."""
        return mean([q.partial_credit for q in self.questions if q.partial_credit is not None])

    @property
    def num_invalid(self) -> int:
        """Texts of the model, over all views, that were no answer at all."""
        return sum(q.num_invalid for q in self.questions)

    @property
    def num_unscored(self) -> int:
        """Answers that the grader could not score."""
        return sum(q.verdict is not None and q.verdict.status is VerdictStatus.UNSCORED for q in self.questions)


@dataclass(frozen=True, kw_only=True)
class ExamPaper:
    """What is asked at one task beside its own questions: other tasks, or the same one with other questions."""

    tasks: tuple[Task, ...] = ()
    """Sat one after the other; their scores are those of one exam."""
    questions: tuple[tuple[str, str], ...] = ()
    """(Question, answer), where they were written in the run: they are stored, so that they need not be written again."""
    failure: str | None = None
    """Why there is none: attempts at this task are then unscored."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryExam:
    """An exam beside the task's own, as it is stored with every attempt."""

    before: ExamScores | None = None
    after: ExamScores | None = None
    questions: tuple[tuple[str, str], ...] = ()
    """See :attr:`ExamPaper.questions`."""
    failure: str | None = None
    """See :attr:`ExamPaper.failure`."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What a rater made of an edit."""

    marks: dict[str, float] = field(default_factory=dict)
    """By criterion."""
    failure: str | None = None
    """Why a criterion has no mark; the edit is then unscored."""


class Measurement(StrEnum):
    """What a reward needs to see of an exam; nothing else is measured."""

    LIKELIHOOD = "likelihood"
    ANSWERS = "answers"


@dataclass(frozen=True, kw_only=True)
class RewardScore:
    """A reward and what it is made of. A value of None means: could not be scored."""

    value: float | None
    breakdown: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Why it could not be scored, where that is known."""
