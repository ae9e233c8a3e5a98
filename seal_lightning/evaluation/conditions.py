"""The conditions of a test: same questions, same inner seed (Table 2's single passage, and controls).

The control that matters is the passage alone for as many optimiser steps as the edit gets: more steps alone raise scores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from seal_lightning.attempting import Attempting
from seal_lightning.errors import MalformedEdit
from seal_lightning.seeds import derive_seed
from seal_lightning.types import (
    AdaptationPlan,
    Adapted,
    Diverged,
    ExamPrompt,
    ExamScores,
    Measurement,
    SelfEdit,
    Task,
)

EVERYTHING = frozenset(Measurement)

ConditionName = Literal["in_context", "without_edit", "without_edit_matched", "self_edit"]
"""A :class:`Condition` that can be left out, as configurations say it."""


class Condition(StrEnum):
    """How a held-out task is met."""

    NO_ADAPTATION = "no_adaptation"
    IN_CONTEXT = "in_context"
    """The context is in the prompt: a reference, not a ceiling."""
    WITHOUT_EDIT = "without_edit"
    """Adapted on the context alone: the passage, or a fixed test-time-training configuration."""
    WITHOUT_EDIT_MATCHED = "without_edit_matched"
    """The same for as many optimiser steps as the final round's edit gets on the same task; of several, their mean."""
    SELF_EDIT = "self_edit"
    """Adapted on one self-edit of the policy."""


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """One task under one condition."""

    condition: Condition
    round: int
    """How many rounds the policy was trained for; 0 is the pretrained model."""
    task_id: str
    scores: ExamScores
    num_steps: int = 0
    num_sequences: int = 0
    failure: str | None = None
    """Why nothing could be learned (a malformed edit, divergence); the scores are then those without adaptation."""
    edit: SelfEdit | None = None
    adapt_seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    """A held-out task that is to be met in one way."""

    condition: Condition
    place: int
    """Among the batch's tasks."""
    plan: AdaptationPlan | str
    """What to adapt on, or why there is nothing."""
    edit: SelfEdit | None = None


class Evaluation:
    """Examines tasks under the conditions of one policy round after another, a batch of tasks at a time.

    Args:
        attempting: how edits are proposed and tried.
        num_edits: ≥ 1, self-edits a held-out task (5 in the paper for ARC, §4.2); scores are means over them.
        conditions: which of them to meet; the unadapted model is always examined, and the step-matched control only beside
            the self-edits whose steps it takes.
    """

    def __init__(
        self, attempting: Attempting, num_edits: int = 1, conditions: Collection[str] = tuple(Condition)
    ) -> None:
        self.attempting = attempting
        self.num_edits = num_edits
        self.conditions = conditions
        self.final_edit_steps: dict[str, int] = {}

    def examine_tasks(self, tasks: Sequence[Task], round_index: int, final_round: int) -> list[ConditionResult]:
        """All conditions of a policy round on some tasks. The final round must come first: it sets the matched steps.

        The pretrained policy meets every condition; trained ones their own self-edits, and the final one the
        step-matched context too, so that what the M-step did to the policy itself is not taken for the edit's work.
        """
        if not tasks:
            return []
        domain = self.attempting.domain
        unadapted = self._unadapted(Condition.NO_ADAPTATION, round_index, tasks, [domain.exam(task) for task in tasks])
        results = list(unadapted)
        if round_index == 0 and Condition.IN_CONTEXT in self.conditions:
            in_context = [(task, exam) for task in tasks if (exam := domain.in_context_exam(task))]
            with_one, exams = [task for task, _ in in_context], [exam for _, exam in in_context]
            results += self._unadapted(Condition.IN_CONTEXT, 0, with_one, exams)
        jobs = self._edit_jobs(tasks) if Condition.SELF_EDIT in self.conditions else []
        if round_index == 0 and Condition.WITHOUT_EDIT in self.conditions:
            jobs += [_Job(Condition.WITHOUT_EDIT, i, self._without_edit(task)) for i, task in enumerate(tasks)]
        adapted = self._adapted(tasks, jobs, unadapted)
        results += adapted
        if round_index == final_round:
            self.final_edit_steps |= _mean_steps(adapted)
        matched = {Condition.WITHOUT_EDIT_MATCHED, Condition.SELF_EDIT} <= {*self.conditions}
        if matched and round_index in (0, final_round):
            results += self._matched(tasks, unadapted, adapted)
        return results

    def write_edits(self, tasks: Sequence[Task], num_edits: int) -> list[dict[str, Any]]:
        """Self-edits of the current policy with the size of their plans; nothing is trained."""
        edits = self.attempting.propose(tasks, num_edits, "predict")
        by_id = {task.task_id: task for task in tasks}
        return [self._described(by_id[edit.task_id], edit) for edit in edits]

    def _described(self, task: Task, edit: SelfEdit) -> dict[str, Any]:
        row: dict[str, Any] = {"task_id": edit.task_id, "edit_index": edit.edit_index, "seed": edit.seed}
        row |= {"text": edit.text, "finish_reason": edit.finish_reason}
        try:
            plan = self.attempting.domain.plan(task, edit)
        except MalformedEdit as error:
            return row | {"malformed": str(error)}
        sequences = ["".join(segment.text for segment in sequence.segments) for sequence in plan.sequences]
        return row | {"sequences": sequences, "num_steps": plan.num_steps}

    def _matched(
        self, tasks: Sequence[Task], unadapted: Sequence[ConditionResult], adapted: Sequence[ConditionResult]
    ) -> list[ConditionResult]:
        """The context alone for the final edit's steps; where it got as many before, the same run is not made again."""
        same = {
            r.task_id: r
            for r in adapted
            if r.condition is Condition.WITHOUT_EDIT
            and r.failure is None
            and r.num_steps == self.final_edit_steps[r.task_id]
        }
        jobs = [
            _Job(Condition.WITHOUT_EDIT_MATCHED, i, self._matched_plan(task))
            for i, task in enumerate(tasks)
            if task.task_id not in same
        ]
        found = same | {result.task_id: result for result in self._adapted(tasks, jobs, unadapted)}
        return [replace(found[task.task_id], condition=Condition.WITHOUT_EDIT_MATCHED) for task in tasks]

    def _matched_plan(self, task: Task) -> AdaptationPlan | str:
        steps = self.final_edit_steps[task.task_id]
        if steps == 0:
            return "the final edits took 0 steps in the mean, so their control takes none"
        plan = self._without_edit(task)
        return plan if isinstance(plan, str) else replace(plan, optimizer=replace(plan.optimizer, max_steps=steps))

    def _without_edit(self, task: Task) -> AdaptationPlan | str:
        try:
            return self.attempting.domain.plan_without_edit(task)
        except MalformedEdit as error:
            return f"malformed: {error}"

    def _edit_jobs(self, tasks: Sequence[Task]) -> list[_Job]:
        """The policy's self-edits for the tasks, to be tried."""
        places = {task.task_id: i for i, task in enumerate(tasks)}
        jobs = []
        for edit in self.attempting.propose(tasks, self.num_edits, "test"):
            plan: AdaptationPlan | str
            try:
                plan = self.attempting.domain.plan(tasks[places[edit.task_id]], edit)
            except MalformedEdit as error:
                plan = f"malformed: {error}"
            jobs.append(_Job(Condition.SELF_EDIT, places[edit.task_id], plan, edit))
        return jobs

    def _adapted(
        self, tasks: Sequence[Task], jobs: Sequence[_Job], unadapted: Sequence[ConditionResult]
    ) -> list[ConditionResult]:
        """Each job's task after adaptation, all in one call; where there was none the scores are unadapted."""
        plans = {i: job.plan for i, job in enumerate(jobs) if isinstance(job.plan, AdaptationPlan)}
        seeds = [inner_seed(self.attempting.seed, tasks[jobs[i].place].task_id) for i in plans]
        outcomes = dict(zip(plans, self.attempting.inner_loop.adapt(list(plans.values()), seeds), strict=True))
        adapted = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Adapted)}
        exams = [(tasks[jobs[i].place], outcome.adapter) for i, outcome in adapted.items()]
        scores = dict(zip(adapted, self.attempting.examine(exams, EVERYTHING), strict=True))
        results = []
        for i, job in enumerate(jobs):
            result = replace(unadapted[job.place], condition=job.condition, edit=job.edit)
            outcome = outcomes.get(i)
            if isinstance(job.plan, str):
                result = replace(result, failure=job.plan)
            elif isinstance(outcome, Diverged):
                result = replace(result, failure=f"diverged: {outcome.reason}")
            elif isinstance(outcome, Adapted):
                result = replace(
                    result,
                    scores=scores[i],
                    num_steps=len(outcome.losses),
                    num_sequences=len(job.plan.sequences),
                    adapt_seconds=outcome.seconds,
                )
            results.append(result)
        return results

    def _unadapted(
        self, condition: Condition, round_index: int, tasks: Sequence[Task], exams: Sequence[Sequence[ExamPrompt]]
    ) -> list[ConditionResult]:
        sat = [(task, exam, None) for task, exam in zip(tasks, exams, strict=True)]
        scores = self.attempting.sit_exams(sat, EVERYTHING)
        return [
            ConditionResult(condition=condition, round=round_index, task_id=task.task_id, scores=score)
            for task, score in zip(tasks, scores, strict=True)
        ]


def inner_seed(seed: int, task_id: str) -> int:
    """The inner loop's seed of a held-out task, the same under all conditions and in a search."""
    return derive_seed(seed, "test", task_id)


def _mean_steps(results: Sequence[ConditionResult]) -> dict[str, int]:
    """By task, the optimiser steps of its self-edits (0 of a failed one): their mean, rounded."""
    steps: dict[str, list[int]] = {}
    for result in results:
        if result.condition is Condition.SELF_EDIT:
            steps.setdefault(result.task_id, []).append(result.num_steps)
    return {task_id: round(sum(found) / len(found)) for task_id, found in steps.items()}
