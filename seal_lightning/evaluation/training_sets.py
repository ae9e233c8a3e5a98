"""Training sets of an episode's steps: one edit's plan, or the edits of a group of tasks in one plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    Diverged,
    OptimizerSpec,
    SelfEdit,
    Task,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.core.evaluation_records import Condition, ConditionResult
from seal_lightning.core.interfaces import AnyDomain

Change = Callable[[AdaptationPlan], AdaptationPlan]


def unchanged(plan: AdaptationPlan) -> AdaptationPlan:
    """Return the plan as it is."""
    return plan


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """A step's plan, with the edits it was made of."""

    plan: AdaptationPlan | None
    """None where nothing can be learned."""
    edits: Mapping[str, tuple[SelfEdit, ...]] = field(default_factory=dict)
    """By task."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why nothing can be learned from a task, by task; if every edit failed, the first one's reason."""
    num_failed: Mapping[str, int] = field(default_factory=dict)
    """Number of malformed edits, by task."""
    refusal: str | None = None
    """Why there is no plan, if the edits are not the cause."""

    def adapted(self, change: Change) -> StepPlan:
        """Return it with the plan changed."""
        return self if self.plan is None else replace(self, plan=change(self.plan))

    def limited(self, num_steps: int | None) -> StepPlan:
        """Return it with exactly ``num_steps`` optimiser steps; None leaves them."""
        if num_steps is None or self.plan is None:
            return self
        if num_steps == 0:
            return replace(
                self, plan=None, refusal="the final edits took 0 steps in the mean, so their control takes none"
            )
        return replace(self, plan=replace(self.plan, optimizer=replace(self.plan.optimizer, max_steps=num_steps)))

    def with_edits(self, cell: ConditionResult, outcome: Adapted | Diverged | None) -> ConditionResult:
        """Return a result of a task of the step with its edits and failures."""
        edits = self.edits.get(cell.task_id, ())
        failure = self.failures.get(cell.task_id) or self.refusal
        failed = self.num_failed.get(cell.task_id, 0)
        if isinstance(outcome, Diverged):
            failure, failed = f"diverged: {outcome.reason}", max(1, len(edits))
        return replace(cell, edits=edits, failure=failure, failed_edits=failed)


def plan_alone(domain: AnyDomain, task: Task, edit: SelfEdit, change: Change = unchanged) -> StepPlan:
    """Return the plan of one edit of one task."""
    return joined_plan(domain, [(task, [edit])], change)


def joined_plan(
    domain: AnyDomain, group: Sequence[tuple[Task, Sequence[SelfEdit] | None]], change: Change = unchanged
) -> StepPlan:
    """Return the edits of a group of tasks as one training set, in order; None in the place of edits is the context alone.

    A sequence that several edits of a task share (the appended passage) is kept as often as it occurs in one of them at most.
    ``change`` is the protocol's change of each plan.

    Raises :class:`ConfigError` where edits that are learned together ask for different adapters or optimisers.
    """
    plans: list[AdaptationPlan] = []
    failures: dict[str, str] = {}
    num_failed: dict[str, int] = {}
    settings: set[tuple[AdapterSpec, OptimizerSpec]] = set()
    for task, edits in group:
        found, reasons = _plans(domain, task, edits)
        of_task = [change(plan) for plan in found]
        settings |= {(plan.adapter, plan.optimizer) for plan in of_task}
        num_failed[task.task_id] = len(reasons)
        if of_task:
            first = of_task[0]
            dropped = sum(plan.dropped_sequences for plan in of_task)
            plans.append(replace(first, sequences=_without_repeats(of_task), dropped_sequences=dropped))
        elif reasons:
            failures[task.task_id] = reasons[0]
    edits_of = {task.task_id: tuple(edits) for task, edits in group if edits is not None}
    if not plans:
        return StepPlan(plan=None, edits=edits_of, failures=failures, num_failed=num_failed)
    if len(settings) > 1:
        raise ConfigError(
            f"model.protocol: {len(plans)} tasks' edits are learned together, but ask for {len(settings)} different adapters "
            "or optimisers in their directives. Set model.protocol.init_args.adapter and optimizer, which then hold for all, "
            "or test tasks one by one"
        )
    joined = replace(
        plans[0],
        sequences=tuple(sequence for plan in plans for sequence in plan.sequences),
        dropped_sequences=sum(plan.dropped_sequences for plan in plans),
    )
    return StepPlan(plan=joined, edits=edits_of, failures=failures, num_failed=num_failed)


def _plans(domain: AnyDomain, task: Task, edits: Sequence[SelfEdit] | None) -> tuple[list[AdaptationPlan], list[str]]:
    """Return the plans of a task's edits, and why the others have none."""
    plans: list[AdaptationPlan] = []
    reasons: list[str] = []
    for edit in [None] if edits is None else edits:
        try:
            plans.append(domain.plan_without_edit(task) if edit is None else domain.plan(task, edit))
        except MalformedEdit as error:
            reasons.append(f"malformed: {error}")
    return plans, reasons


def _without_repeats(plans: Sequence[AdaptationPlan]) -> tuple[TrainingSequence, ...]:
    """Return the sequences of a task's plans; a shared one occurs as often as in the plan that has most of it."""
    kept: list[TrainingSequence] = []
    for plan in plans:
        earlier, met = Counter(kept), Counter[TrainingSequence]()
        for sequence in plan.sequences:
            met[sequence] += 1
            if met[sequence] > earlier[sequence]:
                kept.append(sequence)
    return tuple(kept)


def mean_steps(results: Sequence[ConditionResult]) -> dict[tuple[int, int], int]:
    """Return the mean optimiser steps on self-edits (0 if failed), rounded, by episode and step."""
    steps: dict[tuple[int, int], list[int]] = {}
    for result in results:
        if result.condition is Condition.SELF_EDIT:
            steps.setdefault((result.sequence, result.step), []).append(result.num_steps)
    return {place: round(sum(found) / len(found)) for place, found in steps.items()}


def written_edits(runner: AttemptRunner, tasks: Sequence[Task], num_edits: int) -> list[dict[str, Any]]:
    """Write self-edits of the current policy and describe their plans as JSON; nothing is trained (``seal predict``)."""
    by_id = {task.task_id: task for task in tasks}
    rows = []
    for edit in runner.propose(tasks, num_edits, "predict"):
        row: dict[str, Any] = {"task_id": edit.task_id, "edit_index": edit.edit_index, "seed": edit.seed}
        row |= {"text": edit.text, "finish_reason": edit.finish_reason}
        try:
            plan = runner.plan(by_id[edit.task_id], edit)
        except MalformedEdit as error:
            row["malformed"] = str(error)
        else:
            row["sequences"] = ["".join(segment.text for segment in one.segments) for one in plan.sequences]
            row["num_steps"] = plan.num_steps
        rows.append(row)
    return rows
