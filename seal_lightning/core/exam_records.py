"""Exam prompts, answers, verdicts, judgements and scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from seal_lightning.core.errors import require
from seal_lightning.core.plans import Prompt, Task


def mean(values: list[float]) -> float | None:
    """Return the mean, or None for an empty list."""
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, kw_only=True)
class ExamPrompt:
    """One question as a model gets it. Several views (ARC's transformed grids) may serve one question."""

    question_id: str
    prompt: Prompt
    target: str
    """The gold answer exactly as it would continue the prompt; its log-probability is the likelihood score."""
    max_new_tokens: int
    view: str = "identity"
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """A question, its gold answers and a model's answer, as a grader gets them."""

    question_id: str
    question: str
    gold_answers: tuple[str, ...]
    """An answer that matches any of them is correct; without any the answer cannot be scored."""
    answer: str
    further_answers: tuple[str, ...] = ()
    """Second and later answers, where a question allows several. One correct answer is enough."""
    exact: bool = False
    """Correct only if literally equal to a gold answer (a grid); no grader decides."""
    partial_credit: float | None = None
    """Share of the answer that is correct, in [0, 1], where the domain can tell (the share of a grid's cells)."""
    num_views: int = 1
    """Views of the question from which the answer was made."""
    num_invalid: int = 0
    """Views in which the model's text could not be parsed as an answer."""


@dataclass(frozen=True, kw_only=True)
class ConditionNames:
    """A domain's names for the conditions under which a held-out task is evaluated."""

    unadapted: str = "no adaptation"
    in_context: str = "context in the prompt (a reference)"
    without_edit: str = "context only"
    self_edit: str = "self-edit"
    other_writer: str = "edits by"


class VerdictStatus(StrEnum):
    """A grader's finding. ``UNSCORED`` does not mean wrong: it is reported, and excluded from every mean."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNSCORED = "unscored"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A grader's finding on one answer, with its reason."""

    question_id: str
    status: VerdictStatus
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class JudgeQuestion:
    """One closed question to a judge, for instance whether an answer is correct, or how good a text is."""

    instruction: str
    """The decision to take and its rules; written by us, and the only text that a judge may obey."""
    material: tuple[tuple[str, str], ...]
    """(Name, text) of the material to judge, in order. Texts are data: a model wrote them and may address the judge."""
    options: tuple[str, ...]
    """≥ 2 different answers, none empty, of which the judge takes one: yes and no, or the marks 1 to 5."""

    def __post_init__(self) -> None:
        distinct = len(set(self.options)) == len(self.options) >= 2 and all(self.options)
        require(distinct, "judge's options", self.options, "at least 2 different answers, none empty")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judge's decision, or the reason why it is missing."""

    option: str | None
    """One of the question's; None where the judge did not decide (server down, invalid reply), which is not a verdict."""
    reason: str = ""
    """The judge's reason for its decision if it gives one; otherwise why the decision is missing."""
    outage: bool = False
    """Whether the decision is missing because of the judge and not the question: server unreachable, key refused."""
    probabilities: tuple[float, ...] | None = None
    """Of the options, in order, summing to 1; None where a judge does not report them."""


@dataclass(frozen=True, kw_only=True)
class JudgeCounts:
    """Questions to a judge in this process, and their cost."""

    num_questions: int = 0
    """Questions of all calls, duplicates within a call counted once; includes those answered from the cache."""
    num_cached: int = 0
    num_undecided: int = 0
    num_requests: int = 0
    """Requests to a server, retries included."""
    num_unmetered: int = 0
    """Replies that did not report their tokens; excluded from the sums of tokens and costs."""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    cost: float | None = None
    """In the currency of the configured prices; None without prices."""
    reasons: tuple[tuple[str, int], ...] = ()
    """(Reason, count) of missing decisions; the most frequent first."""


@dataclass(frozen=True, kw_only=True)
class QuestionScore:
    """Measurements on one question. None means: not measured."""

    question_id: str
    log_prob: float | None = None
    """Mean log-probability (nats) of the gold answer's tokens, ≤ 0."""
    num_target_tokens: int = 0
    answer: str | None = None
    further_answers: tuple[str, ...] = ()
    verdict: Verdict | None = None
    exact_match: float | None = None
    """0 or 1, after SQuAD normalisation; for an ``exact`` question, whether the verdict is correct."""
    f1: float | None = None
    """Token overlap in [0, 1], after SQuAD normalisation."""
    partial_credit: float | None = None
    """In [0, 1], see :attr:`AnsweredQuestion.partial_credit`."""
    num_views: int = 0
    num_invalid: int = 0
    """See :attr:`AnsweredQuestion.num_invalid`."""


@dataclass(frozen=True, kw_only=True)
class ExamScores:
    """Measurements on one task's questions."""

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
    def unscored_reason(self) -> str | None:
        """Reason of the first answer that could not be scored; None if all were."""
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
        """Texts, over all questions and views, that could not be parsed as an answer."""
        return sum(q.num_invalid for q in self.questions)

    @property
    def num_unscored(self) -> int:
        """Answers that the grader could not score."""
        return sum(q.verdict is not None and q.verdict.status is VerdictStatus.UNSCORED for q in self.questions)


@dataclass(frozen=True, kw_only=True)
class ExamRequest:
    """An auxiliary exam to run for one task besides its own: other tasks, or the same task with other questions."""

    tasks: tuple[Task, ...] = ()
    """Evaluated one after the other; their scores form one exam."""
    questions: tuple[tuple[str, str], ...] = ()
    """(Question, answer) pairs that were written during the run: they are stored, so that a resumed run reuses them."""
    failure: str | None = None
    """Reason why the exam could not be built; attempts at this task are then unscored."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryExam:
    """The result of an auxiliary exam, as it is stored with every attempt."""

    before: ExamScores | None = None
    after: ExamScores | None = None
    questions: tuple[tuple[str, str], ...] = ()
    """See :attr:`ExamRequest.questions`."""
    failure: str | None = None
    """See :attr:`ExamRequest.failure`."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """A rater's marks for an edit."""

    marks: dict[str, float] = field(default_factory=dict)
    """By criterion."""
    failure: str | None = None
    """Reason why a criterion has no mark; the edit is then unscored."""


class Measurement(StrEnum):
    """A measurement that a reward needs of an exam; nothing else is measured."""

    LIKELIHOOD = "likelihood"
    ANSWERS = "answers"


@dataclass(frozen=True, kw_only=True)
class RewardScore:
    """A reward and its parts. A value of None means: could not be scored."""

    value: float | None
    breakdown: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Reason why it could not be scored, if known."""
