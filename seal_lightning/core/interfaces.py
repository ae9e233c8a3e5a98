"""The seams: what a domain, writer, engine, inner loop, grader and reward must do, and nothing about how.

A newcomer of any kind is a subclass, named by ``class_path`` in YAML. ``tests/conformance`` runs every
implementation of a seam through the same checks. (Reward filters are Lightning callbacks and live in ``callbacks/``.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

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
    ExamPaper,
    ExamPrompt,
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
from seal_lightning.core.errors import ConfigError

if TYPE_CHECKING:
    from seal_lightning.models.language_model import LanguageModel

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

    def adapter_specs(self) -> Sequence[AdapterSpec]:
        """Every adapter that a plan may have, so that one the model has no place for is told before anything is computed."""
        return ()

    def context_text(self, task: TaskT) -> str:
        """What is to be learned, as a reader of a report sees it; empty where a domain has no text of it."""
        return ""

    def question_prompt(self, task: TaskT, num_questions: int) -> Prompt:
        """The prompt that asks for questions on the context, each with its answer; for rewards without labels.

        Raises :class:`ConfigError` where a domain has no such questions.
        """
        raise ConfigError(f"{type(self).__name__} cannot be asked for questions of its own: take another model.reward")

    def question_stop(self) -> tuple[str, ...]:
        """Strings at which the text with the questions ends."""
        return ()

    def written_questions(self, task: TaskT, text: str) -> Sequence[tuple[str, str]]:
        """The (question, answer) pairs of such a text that can be asked; none of a text that has none."""
        return ()

    def asking(self, task: TaskT, questions: Sequence[tuple[str, str]]) -> Task:
        """The same context examined by these questions instead of its own."""
        raise ConfigError(f"{type(self).__name__} cannot be asked questions of its own: take another model.reward")

    @property
    def condition_names(self) -> ConditionNames:
        """What a reader of a table calls the conditions of a test."""
        return ConditionNames()


class Writer(ABC):
    """Who writes self-edits. The policy is one writer; files and other models are others."""

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:  # noqa: B027
        """Use the run's domain, the engine that asks the policy as it then is, and how the policy's edits are sampled.

        Called once, before anything else.
        """

    num_edits: int | None = None
    """How many edits a task this writer gives, whatever a test asks of others; None: as many as are asked for."""

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:  # noqa: B027
        """Raise :class:`DataError` where edits of these tasks cannot be written; asked before anything is computed."""

    @abstractmethod
    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task. ``seeds`` are by (task id, edit index)."""


class Engine(ABC):
    """Text and log-probabilities of the policy and of its adapted copies; adapters may be mixed in one call."""

    def check(self, largest_rank: int) -> None:  # noqa: B027 - many need nothing
        """Raise :class:`ConfigError` where it cannot ask what a run will ask; called before anything is computed.

        ``largest_rank`` is of the LoRA that makes the pretrained model what is asked: rounds merged, and an adapted copy's.
        """

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

    uses_anchor = False
    """Whether a plan's anchor is held to; where it is not, a run that sets one is refused."""

    @abstractmethod
    def bind(self, language_model: LanguageModel) -> None:
        """Use this model from now on. Called once, before anything else."""

    @abstractmethod
    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """One result a plan, in order. A plan that fails fails alone."""


class Grader(ABC):
    """Answers to verdicts."""

    in_background = False
    """As :attr:`Judge.in_background`; such a grader judges one chunk of attempts while the next is adapted."""

    @abstractmethod
    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """One verdict an answer, in order; what cannot be scored is ``UNSCORED`` with a reason, never wrong."""


class Judge(ABC):
    """Decides closed questions about texts: whether an answer is right, how good an edit is."""

    in_background = False
    """Whether it may be asked from another thread while the model trains: a remote one waits, a local one computes."""

    def check(self) -> None:  # noqa: B027 - many need nothing
        """Raise :class:`ConfigError` where it cannot be asked at all (no key); called before anything is computed."""

    @property
    def counts(self) -> JudgeCounts | None:
        """What it was asked so far; None where a judge does not count."""
        return None

    @abstractmethod
    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        """One judgement a question, in order. What cannot be decided has no option and says why; it is never a "no".

        Raises :class:`RunError` where so much is undecided that the run makes no sense.
        """


class Rater(ABC):
    """Edits to marks, by reading them: nothing is adapted for it."""

    in_background = False
    """As :attr:`Judge.in_background`."""

    @abstractmethod
    def rate(self, contexts: Sequence[str], edits: Sequence[str]) -> Sequence[Rating]:
        """One rating an edit, in order; ``contexts`` are the texts that they were written about."""


class Examiner(ABC):
    """Sets an exam beside the task's own, for a reward that wants more of the adapted model than its answers to that."""

    one_paper = False
    """Whether all tasks have the same paper; the model without adaptation then sits it once a round."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Measurement]:
        """What must be measured of it."""

    @abstractmethod
    def bind(self, domain: AnyDomain, engine: Engine) -> None:
        """Use the run's domain, and the engine that asks the policy as it then is. Called once, before anything else."""

    def check(self, tasks: Sequence[Task]) -> None:  # noqa: B027 - most exams go with any tasks
        """Raise :class:`DataError` where the exam does not go with the tasks of a run; asked before anything is computed."""

    @abstractmethod
    def papers(self, tasks: Sequence[Task], seeds: Mapping[str, int]) -> Sequence[ExamPaper]:
        """One paper a task, in order; ``seeds`` are by task id."""

    def paper_again(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamPaper:
        """The paper with these stored questions; asked of papers that have ``questions``."""
        return ExamPaper(tasks=(task,), questions=questions)


class Reward(ABC):
    """Scores to a number: r(SE, τ, θ) of §3.1. Where it needs nothing of the adapted model, nothing is adapted."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Measurement]:
        """What must be measured of the task's own exam."""

    @property
    def examiners(self) -> Mapping[str, Examiner]:
        """Who sets exams beside it, by a name that no other of the run has."""
        return {}

    @property
    def raters(self) -> Mapping[str, Rater]:
        """Who rates the edit itself, by a name that no other of the run has."""
        return {}

    @property
    def adapts(self) -> bool:
        """Whether anything is asked of the adapted model."""
        return bool(self.needs or self.examiners)

    @abstractmethod
    def score(self, attempt: Attempt) -> RewardScore:
        """The attempt's reward, from its exams before and after, ``auxiliary_exams`` and ``ratings``."""


AnyDomain = Domain[Any]
