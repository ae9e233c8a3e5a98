"""The conditions of a test, on one task at a time: same questions, same inner seed (Table 2's single passage, and controls).

The control that matters is the passage alone for as many optimiser steps as the edit gets: more steps alone raise scores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from seal_lightning.attempting import Attempting
from seal_lightning.errors import MalformedEdit
from seal_lightning.seeds import derive_seed
from seal_lightning.types import (
    AdaptationPlan,
    Adapter,
    Diverged,
    ExamPrompt,
    ExamScores,
    Measurement,
    SelfEdit,
    Task,
)

EVERYTHING = frozenset(Measurement)


class Condition(str, Enum):
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
    seconds: float = 0.0


class Evaluation:
    """Examines tasks under the conditions of one policy round after another."""

    def __init__(self, attempting: Attempting) -> None:
        self.attempting = attempting
        self.final_edit_steps: dict[str, int] = {}

    def examine_task(self, task: Task, round_index: int, final_round: int) -> list[ConditionResult]:
        """All conditions of a policy round on a task. The final round must come first: it sets the matched steps.

        The pretrained policy meets every condition; trained ones their own self-edit, and the final one the
        step-matched passage too, so that what the M-step did to the policy itself is not taken for the edit's work.
        """
        unadapted = self._examined(Condition.NO_ADAPTATION, round_index, task, None)
        results = [unadapted]
        results.append(self._self_edit(task, round_index, unadapted))
        if round_index == final_round:
            self.final_edit_steps[task.task_id] = results[-1].num_steps
        if round_index == 0:
            results.append(self._examined(Condition.IN_CONTEXT, 0, task, self.attempting.domain.in_context_exam(task)))
            passage = self.attempting.domain.passage_plan(task)
            results.append(self._adapted(Condition.PASSAGE_ONLY, 0, task, passage, unadapted))
        if round_index in (0, final_round):
            results.append(self._matched(task, round_index, unadapted))
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

    def _self_edit(self, task: Task, round_index: int, unadapted: ConditionResult) -> ConditionResult:
        start = time.perf_counter()
        edit = self.attempting.propose([task], 1, "test")[0]
        try:
            plan = self.attempting.domain.plan(task, edit)
        except MalformedEdit as error:
            return replace(unadapted, condition=Condition.SELF_EDIT, edit=edit, failure=f"malformed: {error}")
        result = self._adapted(Condition.SELF_EDIT, round_index, task, plan, unadapted)
        return replace(result, edit=edit, seconds=time.perf_counter() - start)

    def _matched(self, task: Task, round_index: int, unadapted: ConditionResult) -> ConditionResult:
        steps = self.final_edit_steps[task.task_id]
        if steps == 0:  # the final edit taught nothing, so its control trains nothing
            return replace(unadapted, condition=Condition.PASSAGE_MATCHED)
        plan = self.attempting.domain.passage_plan(task)
        plan = replace(plan, optimizer=replace(plan.optimizer, max_steps=steps))
        return self._adapted(Condition.PASSAGE_MATCHED, round_index, task, plan, unadapted)

    def _adapted(
        self, condition: Condition, round_index: int, task: Task, plan: AdaptationPlan, unadapted: ConditionResult
    ) -> ConditionResult:
        start = time.perf_counter()
        seed = derive_seed(self.attempting.seed, "test", task.task_id)
        outcome = self.attempting.inner_loop.adapt([plan], [seed])[0]
        if isinstance(outcome, Diverged):
            return replace(unadapted, condition=condition, failure=f"diverged: {outcome.reason}")
        result = self._examined(condition, round_index, task, None, outcome.adapter)
        return replace(
            result,
            num_steps=plan.num_steps,
            num_sequences=len(plan.sequences),
            seconds=time.perf_counter() - start,
        )

    def _examined(
        self,
        condition: Condition,
        round_index: int,
        task: Task,
        prompts: Sequence[ExamPrompt] | None,
        adapter: Adapter | None = None,
    ) -> ConditionResult:
        start = time.perf_counter()
        exam = (task, prompts if prompts is not None else self.attempting.domain.exam(task), adapter)
        scores = self.attempting.sit_exams([exam], EVERYTHING)[0]
        return ConditionResult(
            condition=condition,
            round=round_index,
            task_id=task.task_id,
            scores=scores,
            seconds=time.perf_counter() - start,
        )
