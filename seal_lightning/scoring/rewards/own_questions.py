"""The reward that needs no labels: the policy asks, and the adapted model is scored on its questions (left open in §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Attempt, ExamRequest, GenerationRequest, Measurement, RewardScore, SamplingSpec, Task
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, ExamBuilder, Reward
from seal_lightning.core.seeds import derive_seed
from seal_lightning.scoring.rewards.finite import finite_score
from seal_lightning.scoring.rewards.likelihood import LikelihoodReward
from seal_lightning.scoring.rewards.parts import require_exam_only

_DEFAULT_SAMPLING = SamplingSpec(temperature=0.3, top_p=0.95, max_new_tokens=256)


class OwnQuestions(ExamBuilder):
    """Questions that the policy writes about a task's context, before and apart from its edits.

    Args:
        needs: What is measured of the answers.
        num_questions: ≥ 1, kept a task.
        retries: ≥ 0, how often a task with fewer is asked again.
        sampling: How questions are sampled.
    """

    def __init__(self, needs: frozenset[Measurement], num_questions: int, retries: int, sampling: SamplingSpec) -> None:
        self._needs = needs
        self.num_questions = num_questions
        self.retries = retries
        self.sampling = sampling

    @property
    def needs(self) -> frozenset[Measurement]:
        """What the reward looks at."""
        return self._needs

    def bind(self, domain: AnyDomain, engine: Engine) -> None:
        """The policy writes."""
        self.domain = domain
        self.engine = engine

    def build(self, tasks: Sequence[Task], seeds: Mapping[str, int]) -> Sequence[ExamRequest]:
        """The task with the policy's questions; a failure where it wrote none that can be asked."""
        found: dict[str, list[tuple[str, str]]] = {task.task_id: [] for task in tasks}
        for turn in range(self.retries + 1):
            wanting = [task for task in tasks if len(found[task.task_id]) < self.num_questions]
            if not wanting:
                break
            completions = self.engine.generate([self._request(task, seeds[task.task_id], turn) for task in wanting])
            for task, completion in zip(wanting, completions, strict=True):
                found[task.task_id] = _different(
                    [*found[task.task_id], *self.domain.parse_questions(task, completion.text)]
                )
        return [self._paper(task, tuple(found[task.task_id])) for task in tasks]

    def rebuild(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamRequest:
        """The task with these questions."""
        return ExamRequest(tasks=(self.domain.with_questions(task, questions),), questions=questions)

    def _request(self, task: Task, seed: int, turn: int) -> GenerationRequest:
        sampling = replace(self.sampling, stop=(*self.sampling.stop, *self.domain.question_stop()))
        return GenerationRequest(
            prompt=self.domain.question_prompt(task, self.num_questions),
            sampling=sampling,
            seed=seed if turn == 0 else derive_seed(seed, "retry", turn),
        )

    def _paper(self, task: Task, questions: tuple[tuple[str, str], ...]) -> ExamRequest:
        if not questions:
            return ExamRequest(failure=f"no own questions: {self.retries + 1} texts had none that can be asked")
        return self.rebuild(task, questions[: self.num_questions])


def _different(questions: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of those with the same question or the same answer the first: small models ask for one thing in many ways."""
    kept: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for pair in questions:
        keys = {("question", " ".join(pair[0].casefold().split())), ("answer", " ".join(pair[1].casefold().split()))}
        if not keys & seen:
            kept.append(pair)
        seen |= keys
    return kept


class OwnQuestionsReward(Reward):
    """A reward of the exam, on questions that the policy of the round wrote itself before it wrote any edit.

    No gold question is looked at. The questions have seeds of their own and are not shown to the edits, are the same for
    all edits of a task in a round, and are stored with every attempt. A task for which none can be asked has unscored
    attempts. Costs one more text a task and round; validation asks the current policy's questions too, so its reward is
    not the same measure after every round.

    Args:
        base: What is made of the answers; the likelihood of the policy's own answers by default.
        num_questions: 1 to 100, asked for and kept at most.
        retries: 0 to 100, how often a task with fewer questions is asked again; what is new is added.
        sampling: How questions are sampled.
        name: What the exam is stored under; another of the same run needs another one.

    Raises:
        ConfigError: A setting is out of bounds, or ``base`` is not of the exam alone.

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
        for setting, value, least in (("num_questions", num_questions, 1), ("retries", retries, 0)):
            if not least <= value <= 100:
                raise ConfigError(f"OwnQuestionsReward: {setting} is {shown(value)}; allowed is {least} to 100")
        require_exam_only(base, "OwnQuestionsReward")
        self.base = base
        self.name = name
        self.questions = OwnQuestions(base.needs, num_questions, retries, sampling)

    @property
    def needs(self) -> frozenset[Measurement]:
        """Nothing of the task's own exam."""
        return frozenset()

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """Who asks."""
        return {self.name: self.questions}

    def score(self, attempt: Attempt) -> RewardScore:
        """The base's score on the policy's questions. The breakdown is the base's, and ``num_questions``."""
        exam = attempt.auxiliary_exams.get(self.name)
        if exam is None or exam.after is None:
            return RewardScore(value=None, reason=None if exam is None else exam.failure)
        given = self.base.score(replace(attempt, before=exam.before, after=exam.after))
        score = finite_score(given.value, {**given.breakdown, "num_questions": float(len(exam.questions))})
        return replace(score, reason=given.reason)
