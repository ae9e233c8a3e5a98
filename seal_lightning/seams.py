"""The seams: what a domain, writer, engine, inner loop, grader and reward must do, and nothing about how.

A newcomer of any kind is a subclass, named by ``class_path`` in YAML. ``tests/conformance`` runs every
implementation of a seam through the same checks. (Reward filters are Lightning callbacks and live in ``callbacks/``.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seal_lightning.errors import ConfigError
from seal_lightning.types import (
    AdaptationPlan,
    Adapted,
    AnsweredQuestion,
    Attempt,
    ChoiceScoreRequest,
    Completion,
    ConditionNames,
    Diverged,
    ExamPrompt,
    GenerationRequest,
    Measurement,
    Prompt,
    RewardScore,
    ScoreRequest,
    SelfEdit,
    Task,
    TextSchema,
    Verdict,
)

if TYPE_CHECKING:
    from seal_lightning.language_model import LanguageModel

TaskT = TypeVar("TaskT", bound=Task)


class TaskSource(ABC):
    """Where tasks come from."""

    @abstractmethod
    def load(self) -> Sequence[Task]:
        """All tasks, in a stable order. Raises :class:`DataError` on a missing or empty data set or an invalid record."""


class Domain(ABC, Generic[TaskT]):
    """What tasks, edits and answers mean. Methods are pure: same task, same result."""

    @abstractmethod
    def edit_prompt(self, task: TaskT) -> Prompt:
        """The prompt that asks for a self-edit."""

    @abstractmethod
    def edit_stop(self) -> tuple[str, ...]:
        """Strings at which a self-edit ends."""

    def edit_schema(self, task: TaskT) -> TextSchema | None:
        """With a schema, edits are written by constrained decoding: its choices are the policy's. None: free text."""
        return None

    @abstractmethod
    def plan(self, task: TaskT, edit: SelfEdit) -> AdaptationPlan:
        """What an edit means. Raises :class:`MalformedEdit`."""

    @abstractmethod
    def plan_without_edit(self, task: TaskT) -> AdaptationPlan:
        """Adaptation on the context alone, in a fixed way: the passage only (Table 2), test-time training (§4.2).

        Raises :class:`MalformedEdit` where the context gives nothing to train on.
        """

    @abstractmethod
    def exam(self, task: TaskT) -> Sequence[ExamPrompt]:
        """The task's questions as the adapted model is asked them: without the context, or with it (demonstrations)."""

    @abstractmethod
    def in_context_exam(self, task: TaskT) -> Sequence[ExamPrompt]:
        """The same questions with the context in the prompt: a reference, not a ceiling. Empty where :meth:`exam` has it."""

    @abstractmethod
    def answered(self, task: TaskT, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        """One answer a question, to be graded, from the answers by (question id, view): views are inverted and voted on."""

    def context_text(self, task: TaskT) -> str:
        """What is to be learned, as a reader of a report sees it; empty where a domain has no text of it."""
        return ""

    @property
    def condition_names(self) -> ConditionNames:
        """What a reader of a table calls the conditions of a test."""
        return ConditionNames()


class Writer(ABC):
    """Who writes self-edits. The policy is one writer; files and other models are others."""

    def bind(self, domain: AnyDomain, engine: Engine) -> None:  # noqa: B027 - a file needs neither
        """Use the run's domain, and the engine that asks the policy as it then is. Called once, before anything else."""

    num_edits: int | None = None
    """How many edits a task this writer gives, whatever a test asks of others; None: as many as are asked for."""

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:  # noqa: B027
        """Raise :class:`DataError` where edits of these tasks cannot be written; asked before anything is computed."""

    @abstractmethod
    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task. ``seeds`` are by (task id, edit index)."""


class Engine(ABC):
    """Text and log-probabilities of the policy and of its adapted copies; adapters may be mixed in one call."""

    @abstractmethod
    def bind(self, language_model: LanguageModel) -> None:
        """Use this model from now on. Called once, before anything else."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """One completion a request, in order."""

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """The log-probability (nats) of each target token, request by request, in order."""

    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """The log-probability (nats) of given choices of a schema, request by request, in order.

        Raises :class:`ConfigError` where an engine does no constrained decoding.
        """
        raise ConfigError(f"{type(self).__name__} cannot score the choices of a schema; use another engine")


class InnerLoop(ABC):
    """Plan to adapted weights: θ' = SFT(θ, SE) of §3.1, for many plans at once. The base weights end as they were."""

    max_results: int | None = None
    """How many results should be kept at once, where each is large; None: as many as are made."""

    uses_adapter_spec = True
    """Whether a plan's adapter means anything here."""

    @abstractmethod
    def bind(self, language_model: LanguageModel) -> None:
        """Use this model from now on. Called once, before anything else."""

    @abstractmethod
    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """One result a plan, in order. A plan that fails fails alone."""


class Grader(ABC):
    """Answers to verdicts."""

    @abstractmethod
    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """One verdict an answer, in order; what cannot be scored is ``UNSCORED`` with a reason, never wrong."""


class Reward(ABC):
    """Scores to a number: r(SE, τ, θ) of §3.1."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Measurement]:
        """What must be measured for this reward."""

    @abstractmethod
    def score(self, attempt: Attempt) -> RewardScore:
        """The attempt's reward, from its ``before`` and ``after``."""


AnyDomain = Domain[Any]
