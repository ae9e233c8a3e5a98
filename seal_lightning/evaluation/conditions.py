"""The conditions of a test: same questions, same inner seed (Table 2's single passage, and controls).

The control that matters is the passage alone for as many optimiser steps as the edit gets: more steps alone raise scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

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


class Condition(StrEnum):
    """How a held-out task is met."""

    NO_ADAPTATION = "no_adaptation"
    IN_CONTEXT = "in_context"
    """The passage is in the prompt: a reference, not a ceiling."""
    PASSAGE_ONLY = "passage_only"
    PASSAGE_MATCHED = "passage_matched"
    """The passage alone, as many optimiser steps as the final round's edit gets on the same task."""
    SELF_EDIT = "self_edit"
    """The passage and one self-edit of the policy."""


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


class Evaluation:
    """Examines tasks under the conditions of one policy round after another, a batch of tasks at a time."""

    def __init__(self, attempting: Attempting) -> None:
        self.attempting = attempting
        self.final_edit_steps: dict[str, int] = {}

    def examine_tasks(self, tasks: Sequence[Task], round_index: int, final_round: int) -> list[ConditionResult]:
        """All conditions of a policy round on some tasks. The final round must come first: it sets the matched steps.

        The pretrained policy meets every condition; trained ones their own self-edit, and the final one the
        step-matched passage too, so that what the M-step did to the policy itself is not taken for the edit's work.
        """
        if not tasks:
            return []
        domain = self.attempting.domain
        unadapted = self._unadapted(Condition.NO_ADAPTATION, round_index, tasks, [domain.exam(task) for task in tasks])
        edited = self._self_edits(round_index, tasks, unadapted)
        results = [*unadapted, *edited]
        if round_index == final_round:
            self.final_edit_steps |= {result.task_id: result.num_steps for result in edited}
        alone: list[ConditionResult] = []
        if round_index == 0:
            exams = [domain.in_context_exam(task) for task in tasks]
            results += self._unadapted(Condition.IN_CONTEXT, 0, tasks, exams)
            passage_plans = [domain.passage_plan(task) for task in tasks]
            alone = self._adapted(Condition.PASSAGE_ONLY, tasks, passage_plans, unadapted)
            results += alone
        if round_index in (0, final_round):
            results += self._matched(tasks, unadapted, alone)
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
        self, tasks: Sequence[Task], unadapted: Sequence[ConditionResult], alone: Sequence[ConditionResult]
    ) -> list[ConditionResult]:
        """The passage alone for the final edit's steps; where it got as many before, the same run is not made again."""
        same = {r.task_id: r for r in alone if r.failure is None and r.num_steps == self.final_edit_steps[r.task_id]}
        others = [i for i, task in enumerate(tasks) if task.task_id not in same]
        plans = [self._matched_plan(tasks[i]) for i in others]
        run = self._adapted(
            Condition.PASSAGE_MATCHED, [tasks[i] for i in others], plans, [unadapted[i] for i in others]
        )
        found = same | {result.task_id: result for result in run}
        return [replace(found[task.task_id], condition=Condition.PASSAGE_MATCHED) for task in tasks]

    def _matched_plan(self, task: Task) -> AdaptationPlan | str:
        steps = self.final_edit_steps[task.task_id]
        if steps == 0:
            return "the final edit taught nothing, so its control trains nothing"
        plan = self.attempting.domain.passage_plan(task)
        return replace(plan, optimizer=replace(plan.optimizer, max_steps=steps))

    def _self_edits(
        self, round_index: int, tasks: Sequence[Task], unadapted: Sequence[ConditionResult]
    ) -> list[ConditionResult]:
        edits = self.attempting.propose(tasks, 1, "test")
        plans: list[AdaptationPlan | str] = []
        for task, edit in zip(tasks, edits, strict=True):
            try:
                plans.append(self.attempting.domain.plan(task, edit))
            except MalformedEdit as error:
                plans.append(f"malformed: {error}")
        results = self._adapted(Condition.SELF_EDIT, tasks, plans, unadapted)
        return [replace(result, edit=edit) for result, edit in zip(results, edits, strict=True)]

    def _adapted(
        self,
        condition: Condition,
        tasks: Sequence[Task],
        plans: Sequence[AdaptationPlan | str],
        unadapted: Sequence[ConditionResult],
    ) -> list[ConditionResult]:
        """The tasks after adaptation on their plans; a string says why there is none, and the scores are unadapted."""
        results = {
            i: replace(unadapted[i], condition=condition, failure=plan)
            for i, plan in enumerate(plans)
            if isinstance(plan, str)
        }
        to_train = {i: plan for i, plan in enumerate(plans) if isinstance(plan, AdaptationPlan)}
        seeds = [derive_seed(self.attempting.seed, "test", tasks[i].task_id) for i in to_train]
        outcomes = dict(zip(to_train, self.attempting.inner_loop.adapt(list(to_train.values()), seeds), strict=True))
        adapted = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Adapted)}
        scores = self.attempting.examine([(tasks[i], outcome.adapter) for i, outcome in adapted.items()], EVERYTHING)
        for (i, outcome), score in zip(adapted.items(), scores, strict=True):
            results[i] = replace(
                unadapted[i],
                condition=condition,
                scores=score,
                num_steps=len(outcome.losses),
                num_sequences=len(to_train[i].sequences),
                adapt_seconds=outcome.seconds,
            )
        for i, failed in outcomes.items():
            if isinstance(failed, Diverged):
                results[i] = replace(unadapted[i], condition=condition, failure=f"diverged: {failed.reason}")
        return [results[i] for i in range(len(tasks))]

    def _unadapted(
        self, condition: Condition, round_index: int, tasks: Sequence[Task], exams: Sequence[Sequence[ExamPrompt]]
    ) -> list[ConditionResult]:
        sat = [(task, exam, None) for task, exam in zip(tasks, exams, strict=True)]
        scores = self.attempting.sit_exams(sat, EVERYTHING)
        return [
            ConditionResult(condition=condition, round=round_index, task_id=task.task_id, scores=score)
            for task, score in zip(tasks, scores, strict=True)
        ]
