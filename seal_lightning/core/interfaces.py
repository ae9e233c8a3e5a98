"""Interfaces of the exchangeable parts: domain, writer, engine, inner loop, grader, judge, rater and reward.

To add one, write a subclass and name it by ``class_path`` in YAML. ``tests/conformance`` runs every implementation of an
interface through the same checks. (Reward filters are Lightning callbacks and live in ``callbacks/``.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    AnsweredQuestion,
    Attempt,
    ChoiceScoreRequest,
    Completion,
    ConditionNames,
    Diverged,
    ExamPrompt,
    ExamRequest,
    GenerationRequest,
    JudgeCounts,
    Judgement,
    JudgeQuestion,
    Measurement,
    Prompt,
    Rating,
    RewardScore,
    SamplingSpec,
    ScoreRequest,
    SelfEdit,
    Task,
    TextSchema,
    Verdict,
)
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError

TaskT = TypeVar("TaskT", bound=Task)

AnyLanguageModel = Any
"""A :class:`seal_lightning.models.language_model.LanguageModel`; core imports no torch, so its type is not named here."""


class TaskSource(Configurable, ABC):
    """A source of tasks."""

    @abstractmethod
    def load(self) -> Sequence[Task]:
        """Return all tasks, in a stable order. Raises :class:`DataError` for a missing or empty data set or a bad record."""


class Domain(Configurable, ABC, Generic[TaskT]):
    """The meaning of tasks, edits and answers. Methods are pure: same task, same result."""

    @abstractmethod
    def edit_prompt(self, task: TaskT) -> Prompt:
        """Return the prompt for a self-edit."""

    @abstractmethod
    def edit_stop(self) -> tuple[str, ...]:
        """Return the strings at which a self-edit ends."""

    def edit_schema(self, task: TaskT) -> TextSchema | None:
        """Return the schema for edits by constrained decoding, whose choices the policy makes; None: free text."""
        return None

    @abstractmethod
    def plan(self, task: TaskT, edit: SelfEdit) -> AdaptationPlan:
        """Return the plan that an edit means. Raises :class:`MalformedEdit`."""

    @abstractmethod
    def plan_without_edit(self, task: TaskT) -> AdaptationPlan:
        """Return the plan for the context alone: the passage only (Table 2), test-time training (§4.2).

        Raises :class:`MalformedEdit` where the context gives nothing to train on.
        """

    @abstractmethod
    def exam(self, task: TaskT) -> Sequence[ExamPrompt]:
        """Return the questions for the adapted model: without the context, or with it (ARC's demonstrations)."""

    @abstractmethod
    def in_context_exam(self, task: TaskT) -> Sequence[ExamPrompt]:
        """Return the same questions with the context in the prompt: a reference, not an upper bound.

        Empty where :meth:`exam` already has the context.
        """

    @abstractmethod
    def answered_questions(self, task: TaskT, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        """Return one answer per question for the grader, from the answers by (question id, view).

        Answers to transformed views are transformed back and voted on.
        """

    def adapter_specs(self) -> Sequence[AdapterSpec]:
        """Return every adapter that a plan may have, so that one that does not fit the model is reported at the start."""
        return ()

    def context_text(self, task: TaskT) -> str:
        """Return the text to be learned, for reports; empty where a domain has no such text."""
        return ""

    def question_prompt(self, task: TaskT, num_questions: int) -> Prompt:
        """Return the prompt for questions on the context, each with its answer; for rewards without labels.

        Raises :class:`ConfigError` where a domain does not support such questions.
        """
        raise ConfigError(
            f"{type(self).__name__} does not support the policy's own questions: take another model.reward"
        )

    def question_stop(self) -> tuple[str, ...]:
        """Return the strings at which the text with the questions ends."""
        return ()

    def parse_questions(self, task: TaskT, text: str) -> Sequence[tuple[str, str]]:
        """Return the valid (question, answer) pairs of a text written for :meth:`question_prompt`; may be empty."""
        return ()

    def with_questions(self, task: TaskT, questions: Sequence[tuple[str, str]]) -> Task:
        """Return the task with these questions instead of its own. Raises :class:`ConfigError` as :meth:`question_prompt`."""
        raise ConfigError(
            f"{type(self).__name__} does not support the policy's own questions: take another model.reward"
        )

    @property
    def condition_names(self) -> ConditionNames:
        """Names of the conditions of a test, for tables."""
        return ConditionNames()


class Writer(Configurable, ABC):
    """A source of self-edits: the policy, a file, or another model."""

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Use the run's domain, the engine of the current policy, and the policy's sampling settings.

        Called once, before anything else.
        """

    num_edits: int | None = None
    """Fixed number of edits per task, overriding a test's own number; None: as many as requested."""

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:
        """Raise :class:`DataError` where edits of these tasks cannot be written; called before anything is computed."""

    @abstractmethod
    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """Return ``num_edits`` edits for each task, task by task. ``seeds`` are by (task id, edit index)."""


class Engine(Configurable, ABC):
    """Generates texts and scores log-probabilities with the policy and its adapted copies; one call may mix adapters."""

    def check(self, largest_rank: int) -> None:
        """Raise :class:`ConfigError` where the engine cannot serve the run; called before anything is computed.

        ``largest_rank`` is of the LoRA that turns the pretrained model into an adapted one: merged rounds and the adapter.
        """

    @abstractmethod
    def bind(self, language_model: AnyLanguageModel) -> None:
        """Use this model from now on. Called once, before anything else."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """Return one completion per request, in order."""

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """Return the log-probability (nats) of each target token, request by request, in order."""

    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """Return the log-probability (nats) of given choices of a schema, request by request, in order.

        Raises :class:`ConfigError` where an engine does not support constrained decoding.
        """
        raise ConfigError(f"{type(self).__name__} cannot score the choices of a schema; use another engine")


class InnerLoop(Configurable, ABC):
    """Trains adapters: θ' = SFT(θ, SE) of §3.1, for many plans at once. The base weights are restored at the end."""

    max_results: int | None = None
    """Number of results to keep in memory at once, where each is large; None: no limit."""

    uses_adapter_spec = True
    """Whether a plan's adapter is used here."""

    uses_anchor = False
    """Whether a plan's anchor is used; where it is not, a run that sets one is rejected."""

    @abstractmethod
    def bind(self, language_model: AnyLanguageModel) -> None:
        """Use this model from now on. Called once, before anything else."""

    @abstractmethod
    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """Return one result per plan, in order. A plan that fails does not affect the others."""


class Grader(Configurable, ABC):
    """Grades answers."""

    in_background = False
    """As :attr:`Judge.in_background`; such a grader judges one chunk of attempts while the next is adapted."""

    @abstractmethod
    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """Return one verdict per answer, in order; one that cannot be scored is ``UNSCORED`` with a reason, not wrong."""


class Judge(Configurable, ABC):
    """Decides closed questions about texts: whether an answer is correct, how good an edit is."""

    in_background = False
    """Whether it may be called from another thread while the model trains: a remote judge waits, a local one computes."""

    def check(self) -> None:
        """Raise :class:`ConfigError` where it cannot be called at all (missing key); called before anything is computed."""

    @property
    def counts(self) -> JudgeCounts | None:
        """Questions and costs so far; None where a judge does not count."""
        return None

    @abstractmethod
    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        """Return one judgement per question, in order. An undecided one has no option and a reason; it is never a "no".

        Raises :class:`RunError` where too much is undecided for the run to make sense.
        """


class Rater(Configurable, ABC):
    """Rates edits by reading them, without adaptation."""

    in_background = False
    """As :attr:`Judge.in_background`."""

    @abstractmethod
    def rate(self, contexts: Sequence[str], edits: Sequence[str]) -> Sequence[Rating]:
        """Return one rating per edit, in order; ``contexts`` are the texts that the edits are about."""


class ExamBuilder(Configurable, ABC):
    """Builds an auxiliary exam per task, for a reward that needs more than the answers to the task's own exam."""

    same_for_all_tasks = False
    """Whether all tasks have the same exam; the model without adaptation is then evaluated on it once per round."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Measurement]:
        """Measurements of this exam that the reward needs."""

    @abstractmethod
    def bind(self, domain: AnyDomain, engine: Engine) -> None:
        """Use the run's domain, and the engine of the current policy. Called once, before anything else."""

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise :class:`DataError` where the exam does not suit the run's tasks; called before anything is computed."""

    @abstractmethod
    def build(self, tasks: Sequence[Task], seeds: Mapping[str, int]) -> Sequence[ExamRequest]:
        """Return one exam per task, in order; ``seeds`` are by task id."""

    def rebuild(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamRequest:
        """Return the exam with these stored questions; called only for exams that have ``questions``."""
        return ExamRequest(tasks=(task,), questions=questions)


class Reward(Configurable, ABC):
    """Computes an attempt's reward: r(SE, τ, θ) of §3.1. If it needs nothing of the adapted model, nothing is adapted."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Measurement]:
        """Measurements of the task's own exam that the reward needs."""

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """Builders of the auxiliary exams, by names that are unique in the run."""
        return {}

    @property
    def raters(self) -> Mapping[str, Rater]:
        """Raters of the edit itself, by names that are unique in the run."""
        return {}

    @property
    def adapts(self) -> bool:
        """True where the adapted model is evaluated at all."""
        return bool(self.needs or self.exam_builders)

    @abstractmethod
    def score(self, attempt: Attempt) -> RewardScore:
        """Return the attempt's reward, from its exams before and after, ``auxiliary_exams`` and ``ratings``."""


AnyDomain = Domain[Any]
