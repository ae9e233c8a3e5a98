"""The reward without labels: the adapted model is scored on questions that the policy writes (left open in §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Attempt, ExamRequest, GenerationRequest, Measurement, RewardScore, SamplingSpec, Task
from seal_lightning.core.errors import require
from seal_lightning.core.interfaces import AnyDomain, Engine, ExamBuilder, Reward
from seal_lightning.core.seeds import derive_seed
from seal_lightning.scoring.rewards.combinations import require_exam_only
from seal_lightning.scoring.rewards.exam_rewards import LikelihoodReward, finite_score

_DEFAULT_SAMPLING = SamplingSpec(temperature=0.3, top_p=0.95, max_new_tokens=256)


class OwnQuestionsExam(ExamBuilder):
    """Questions that the policy writes about a task's context, before and independent of its edits.

    Args:
        needs: the measurements of the answers.
        num_questions: ≥ 1, kept per task.
        retries: ≥ 0, further texts for a task with fewer questions.
        sampling: of the texts.
    """

    def __init__(self, needs: frozenset[Measurement], num_questions: int, retries: int, sampling: SamplingSpec) -> None:
        self._needs = needs
        self.num_questions = num_questions
        self.retries = retries
        self.sampling = sampling

    @property
    def needs(self) -> frozenset[Measurement]:
        """The reward's measurements."""
        return self._needs

    def bind(self, domain: AnyDomain, engine: Engine) -> None:
        """Write questions with this engine's policy."""
        self.domain = domain
        self.engine = engine

    def build(self, tasks: Sequence[Task], seeds: Mapping[str, int]) -> Sequence[ExamRequest]:
        """Return each task with the policy's questions; a failure where it wrote no valid one."""
        found: dict[str, list[tuple[str, str]]] = {task.task_id: [] for task in tasks}
        for turn in range(self.retries + 1):
            short = [task for task in tasks if len(found[task.task_id]) < self.num_questions]
            if not short:
                break
            completions = self.engine.generate([self._request(task, seeds[task.task_id], turn) for task in short])
            for task, completion in zip(short, completions, strict=True):
                found[task.task_id] = _distinct(
                    [*found[task.task_id], *self.domain.parse_questions(task, completion.text)]
                )
        return [self._exam(task, tuple(found[task.task_id])) for task in tasks]

    def rebuild(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamRequest:
        """Return the task with these questions."""
        return ExamRequest(tasks=(self.domain.with_questions(task, questions),), questions=questions)

    def _request(self, task: Task, seed: int, turn: int) -> GenerationRequest:
        sampling = replace(self.sampling, stop=(*self.sampling.stop, *self.domain.question_stop()))
        return GenerationRequest(
            prompt=self.domain.question_prompt(task, self.num_questions),
            sampling=sampling,
            seed=seed if turn == 0 else derive_seed(seed, "retry", turn),
        )

    def _exam(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamRequest:
        if not questions:
            return ExamRequest(failure=f"no own questions: {self.retries + 1} texts had no valid question")
        return self.rebuild(task, questions[: self.num_questions])


def _distinct(questions: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first of those with the same question or answer: small models ask for one thing in many ways."""
    kept: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for pair in questions:
        keys = {("question", " ".join(pair[0].casefold().split())), ("answer", " ".join(pair[1].casefold().split()))}
        if not keys & seen:
            kept.append(pair)
        seen |= keys
    return kept


class OwnQuestionsReward(Reward):
    """Reward of an exam with questions that the policy of the round wrote itself, before any edit.

    No gold question is used. The questions have their own seeds, are not shown to the edits, are the same for all edits of
    a task in a round, and are stored with every attempt. A task without a valid question has unscored attempts. It costs
    one more text per task and round. Validation uses the current policy's questions too, so its reward is not the same
    measure after every round.

    Args:
        base: the reward of the exam; the likelihood of the policy's own answers by default.
        num_questions: 1 to 100, requested and kept at most.
        retries: 0 to 100, further texts for a task with fewer questions, whose new ones are added.
        sampling: of the texts.
        name: of the exam in stored attempts; unique in the run.

    Raises:
        ConfigError: a setting is out of bounds, or ``base`` is not of the exam alone.

    Example:
        >>> OwnQuestionsReward(num_questions=3).questions.num_questions
        3
    """

    def __init__(
        self,
        base: Reward | None = None,
        num_questions: int = 5,
        retries: int = 2,
        sampling: SamplingSpec = _DEFAULT_SAMPLING,
        name: str = "own questions",
    ) -> None:
        base = LikelihoodReward() if base is None else base
        require(1 <= num_questions <= 100, "OwnQuestionsReward.num_questions", num_questions, "from 1 to 100")
        require(0 <= retries <= 100, "OwnQuestionsReward.retries", retries, "from 0 to 100")
        require_exam_only(base, "OwnQuestionsReward")
        self.base = base
        self.name = name
        self.questions = OwnQuestionsExam(base.needs, num_questions, retries, sampling)

    @property
    def needs(self) -> frozenset[Measurement]:
        """No measurement of the task's own exam."""
        return frozenset()

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """The policy's questions."""
        return {self.name: self.questions}

    def score(self, attempt: Attempt) -> RewardScore:
        """Return the base's score on the policy's questions. The breakdown is the base's, and ``num_questions``."""
        exam = attempt.auxiliary_exams.get(self.name)
        if exam is None or exam.after is None:
            return RewardScore(value=None, reason=None if exam is None else exam.failure)
        given = self.base.score(replace(attempt, before=exam.before, after=exam.after))
        score = finite_score(given.value, {**given.breakdown, "num_questions": float(len(exam.questions))})
        return replace(score, reason=given.reason)
