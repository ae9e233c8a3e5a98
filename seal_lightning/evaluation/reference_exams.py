"""Exams without training: before any step, with the context in the prompt, and with an adapter from outside."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import Adapter, AnsweredQuestion, ExamPrompt, ExamScores, Measurement, Task
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult
from seal_lightning.core.interfaces import AnyDomain
from seal_lightning.evaluation.protocols import Episode

EVERYTHING = frozenset(Measurement)

MeasurementName = Literal["likelihood", "answers"]
"""A :class:`Measurement` in a configuration."""

_PlacedExam = tuple[Episode, int, Task, Sequence[ExamPrompt]]
"""An episode, a place in it, the task there, and its exam."""


class ReferenceExams:
    """Examines the tasks of episodes without training.

    Args:
        runner: runs the exams.
        share: this rank's part of an episode's tasks, (rank, number of ranks).
        needs: what is measured.
    """

    def __init__(
        self, runner: AttemptRunner, share: tuple[int, int], needs: frozenset[Measurement] = EVERYTHING
    ) -> None:
        self.runner = runner
        self.share = share
        self.needs = needs

    def before(self, episodes: Sequence[Episode], round_index: int) -> dict[tuple[int, int], ConditionResult]:
        """Examine the tasks before any step; results by episode and place.

        Raises :class:`RunError` where the model's log-probabilities are not finite.
        """
        arm = Arm(condition=Condition.NO_ADAPTATION, round=round_index)
        exams = [(e, place, task, self.runner.exam(task)) for e, place, task in self._placed(episodes)]
        results = self._examined(arm, exams, None)
        if strange := [result.task_id for result in results if not is_finite(result.scores)]:
            raise RunError(
                f"the model's log-probabilities are not finite without any adaptation (task {strange[0]}). Another "
                "model.pretrained.dtype (bfloat16, float32) may help"
            )
        return {(result.sequence, result.place): result for result in results}

    def references(
        self, episodes: Sequence[Episode], conditions: Collection[str], adapters: Mapping[str, Adapter]
    ) -> list[ConditionResult]:
        """Examine the tasks with the context in the prompt, if that is a condition, and with outside adapters."""
        domain = self.runner.domain
        placed = list(self._placed(episodes))
        results = []
        if Condition.IN_CONTEXT in conditions:
            arm = Arm(condition=Condition.IN_CONTEXT, round=0)
            exams = [(e, place, task, domain.in_context_exam(task)) for e, place, task in placed]
            results += self._examined(arm, [exam for exam in exams if exam[3]], None)
        for name, adapter in adapters.items():
            arm = Arm(condition=Condition.OUTSIDE_ADAPTER, round=0, name=name)
            results += self._examined(arm, [(e, place, t, self.runner.exam(t)) for e, place, t in placed], adapter)
        if strange := [result for result in results if not is_finite(result.scores)]:
            what = f"the adapter {strange[0].name!r}" if strange[0].name else "the context in the prompt"
            raise RunError(f"with {what} log-probabilities are not finite (task {strange[0].task_id}). Remove it")
        return results

    def _placed(self, episodes: Sequence[Episode]) -> Iterator[tuple[Episode, int, Task]]:
        """Yield this rank's tasks with their places."""
        rank, num_ranks = self.share
        for episode in episodes:
            for place, task in list(enumerate(episode.tasks))[rank::num_ranks]:
                yield episode, place, task

    def _examined(self, arm: Arm, exams: Sequence[_PlacedExam], adapter: Adapter | None) -> list[ConditionResult]:
        """Run the exams; a task of several episodes is examined once."""
        once = {task.task_id: (task, exam, adapter) for _, _, task, exam in exams}
        scores = dict(zip(once, self.runner.run_exams(list(once.values()), self.needs), strict=True))
        return [result_at(arm, episode, 0, place, task, scores[task.task_id]) for episode, place, task, _ in exams]


def measurements(chosen: Collection[MeasurementName] | None) -> frozenset[Measurement]:
    """Return what a test's exams measure; None is everything. Raises :class:`ConfigError` for an empty list."""
    if chosen is None:
        return EVERYTHING
    if not chosen:
        raise ConfigError("model.test_measurements: an empty list is not allowed; null measures everything")
    return frozenset(Measurement(name) for name in chosen)


def gold_questions(domain: AnyDomain, task: Task) -> Sequence[AnsweredQuestion]:
    """Return a task's questions with their gold answers and blank answers; none without an exam."""
    blanks = {(prompt.question_id, prompt.view): "" for prompt in domain.exam(task)}
    return domain.answered_questions(task, blanks) if blanks else ()


def is_finite(scores: ExamScores | None) -> bool:
    """Return whether every measured log-probability is finite."""
    return scores is None or all(math.isfinite(q.log_prob) for q in scores.questions if q.log_prob is not None)


def result_at(arm: Arm, episode: Episode, step: int, place: int, task: Task, scores: ExamScores) -> ConditionResult:
    """Return a task's scores as a cell of its episode's matrix."""
    return ConditionResult(
        condition=arm.condition,
        round=arm.round,
        name=arm.name,
        task_id=task.task_id,
        scores=scores,
        sequence=episode.index,
        step=step,
        place=place,
    )
