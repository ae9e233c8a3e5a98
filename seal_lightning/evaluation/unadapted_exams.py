"""Exams for which nothing is learned: before any step, with the context in the prompt, with an adapter from outside."""

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
"""A :class:`Measurement`, as configurations say it."""

_Seat = tuple[Episode, int, Task, Sequence[ExamPrompt], Adapter | None]
"""A task at its place in an episode, what it is asked, and with which adapter."""


class ExamsWithoutLearning:
    """Examines the tasks of episodes as they are.

    Args:
        runner: how exams are sat.
        share: which part of an episode's tasks is this rank's, (rank, number of ranks).
        needs: what is measured.
    """

    def __init__(
        self, runner: AttemptRunner, share: tuple[int, int], needs: frozenset[Measurement] = EVERYTHING
    ) -> None:
        self.runner = runner
        self.share = share
        self.needs = needs

    def before(self, episodes: Sequence[Episode], round_index: int) -> dict[tuple[int, int], ConditionResult]:
        """By episode and place: the tasks' exams before any step. Raises :class:`RunError` where the model gives NaN."""
        arm = Arm(condition=Condition.NO_ADAPTATION, round=round_index)
        seats = [(e, place, task, self.runner.domain.exam(task), None) for e, place, task in self._seats(episodes)]
        results = self._sat(arm, seats)
        if strange := [result.task_id for result in results if not is_finite(result.scores)]:
            raise RunError(
                f"the model's log-probabilities are not finite without any adaptation (task {strange[0]}); nothing was "
                "written. Another model.pretrained.dtype (bfloat16, float32) may help"
            )
        return {(result.sequence, result.place): result for result in results}

    def references(
        self, episodes: Sequence[Episode], conditions: Collection[str], adapters: Mapping[str, Adapter]
    ) -> list[ConditionResult]:
        """The context in the prompt, where that is a condition, and adapters from outside."""
        domain = self.runner.domain
        results = []
        if Condition.IN_CONTEXT in conditions:
            arm = Arm(condition=Condition.IN_CONTEXT, round=0)
            asked = ((e, place, task, domain.in_context_exam(task), None) for e, place, task in self._seats(episodes))
            results += self._sat(arm, [seat for seat in asked if seat[3]])
        for name, adapter in adapters.items():
            arm = Arm(condition=Condition.OUTSIDE_ADAPTER, round=0, name=name)
            seats = [(e, place, task, domain.exam(task), adapter) for e, place, task in self._seats(episodes)]
            results += self._sat(arm, seats)
        if strange := [result for result in results if not is_finite(result.scores)]:
            what = f"the adapter {strange[0].name!r}" if strange[0].name else "the context in the prompt"
            raise RunError(f"with {what} log-probabilities are not finite (task {strange[0].task_id}). Leave it out")
        return results

    def _seats(self, episodes: Sequence[Episode]) -> Iterator[tuple[Episode, int, Task]]:
        """This rank's tasks with their places."""
        rank, num_ranks = self.share
        for episode in episodes:
            for place, task in list(enumerate(episode.tasks))[rank::num_ranks]:
                yield episode, place, task

    def _sat(self, arm: Arm, seats: Sequence[_Seat]) -> list[ConditionResult]:
        """The exams; a task that sits in several episodes sits once."""
        once = {task.task_id: (task, exam, adapter) for _, _, task, exam, adapter in seats}
        scores = dict(zip(once, self.runner.run_exams(list(once.values()), self.needs), strict=True))
        return [result_at(arm, episode, 0, place, task, scores[task.task_id]) for episode, place, task, _, _ in seats]


def measurements(chosen: Collection[MeasurementName] | None) -> frozenset[Measurement]:
    """What a test's exams measure; None is everything. Raises :class:`ConfigError` for nothing."""
    if chosen is None:
        return EVERYTHING
    if not chosen:
        raise ConfigError("model.test_measurements: an empty list is not allowed; null measures everything")
    return frozenset(Measurement(name) for name in chosen)


def asked_questions(domain: AnyDomain, task: Task) -> Sequence[AnsweredQuestion]:
    """A task's questions with their gold answers, and blanks for answers; none of a task that asks none."""
    blanks = {(prompt.question_id, prompt.view): "" for prompt in domain.exam(task)}
    return domain.answered_questions(task, blanks) if blanks else ()


def is_finite(scores: ExamScores | None) -> bool:
    """Whether every log-probability is a number; what was not measured is."""
    return scores is None or all(math.isfinite(q.log_prob) for q in scores.questions if q.log_prob is not None)


def result_at(arm: Arm, episode: Episode, step: int, place: int, task: Task, scores: ExamScores) -> ConditionResult:
    """A task's scores as a cell of its episode's matrix."""
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
