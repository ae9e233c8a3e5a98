"""A test's results as a table: means with standard errors over tasks, and paired differences from the honest control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seal_lightning.evaluation.conditions import Condition, ConditionResult
from seal_lightning.types import ConditionNames


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over tasks with its standard error (sample standard deviation / √n; None for n < 2)."""

    mean: float
    standard_error: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class ConditionRow:
    """One condition's row of the table."""

    label: str
    condition: Condition
    round: int
    num_tasks: int
    num_questions: int
    num_failed: int
    """Malformed edits and diverged adapters, each edit of a task for itself; counted with the scores without adaptation,
    but never as solved."""
    num_unscored: int
    """Answers the grader could not score; left out of the accuracy."""
    num_views: int
    """Texts the model wrote as answers, over all views of all questions; none where nothing could be learned."""
    num_invalid: int
    """How many of them were no answer at all (a grid that does not decode)."""
    log_prob: Estimate | None
    solved: Estimate | None
    """Share of tasks all of whose questions are answered right; where nothing could be learned, nothing is solved."""
    accuracy: Estimate | None
    exact_match: Estimate | None
    f1: Estimate | None
    partial_credit: Estimate | None
    """How nearly right the answers are (the share of cells of a grid)."""
    num_steps: Estimate
    log_prob_vs_matched: Estimate | None
    """Paired difference, task by task, from the passage alone at equal steps on the same policy; None where there is none."""
    log_prob_vs_untrained: Estimate | None
    """Paired difference, task by task, from the self-edit that the policy wrote before training; for trained ones only."""


def condition_table(results: Sequence[ConditionResult], names: ConditionNames) -> list[ConditionRow]:
    """One row for each (condition, round) that occurs, in the order a reader wants, called as the domain calls them."""
    keys = sorted({(_ORDER[r.condition], r.round, r.condition) for r in results}, key=lambda key: (key[0], key[1]))
    final_round = max((r.round for r in results), default=0)
    return [
        _row(results, condition, round_index, final_round, _label(names, condition, round_index))
        for _, round_index, condition in keys
    ]


_ORDER = {condition: order for order, condition in enumerate(Condition)}


def _label(names: ConditionNames, condition: Condition, round_index: int) -> str:
    trained = "before training" if round_index == 0 else f"after round {round_index}"
    return {
        Condition.NO_ADAPTATION: f"{names.unadapted}, policy {trained}",
        Condition.IN_CONTEXT: names.in_context,
        Condition.WITHOUT_EDIT: names.without_edit,
        Condition.WITHOUT_EDIT_MATCHED: f"{names.without_edit} at the final edit's steps, policy {trained}",
        Condition.SELF_EDIT: f"{names.self_edit} {trained}",
    }[condition]


def _row(
    results: Sequence[ConditionResult], condition: Condition, round_index: int, final_round: int, label: str
) -> ConditionRow:
    rows = [r for r in results if r.condition is condition and r.round == round_index]
    learned = [r for r in rows if r.failure is None]
    is_edit = condition is Condition.SELF_EDIT
    compared = is_edit and round_index in (0, final_round)
    matched = [r for r in results if r.condition is Condition.WITHOUT_EDIT_MATCHED and r.round == round_index]
    untrained = [r for r in results if r.condition is Condition.SELF_EDIT and r.round == 0]

    def over_tasks(score: Callable[[ConditionResult], float | None]) -> Estimate | None:
        return estimate(list(_by_task(rows, score).values()))

    num_steps = over_tasks(lambda r: float(r.num_steps))
    assert num_steps is not None  # a row has results
    return ConditionRow(
        label=label,
        condition=condition,
        round=round_index,
        num_tasks=len({r.task_id for r in rows}),
        num_questions=sum(len(r.scores.questions) for r in {r.task_id: r for r in rows}.values()),
        num_failed=sum(r.failure is not None for r in rows),
        num_unscored=sum(r.scores.num_unscored for r in rows),
        num_views=sum(q.num_views for r in learned for q in r.scores.questions),
        num_invalid=sum(r.scores.num_invalid for r in learned),
        log_prob=over_tasks(lambda r: r.scores.log_prob),
        solved=over_tasks(_solved),
        accuracy=over_tasks(lambda r: r.scores.accuracy),
        exact_match=over_tasks(lambda r: r.scores.exact_match),
        f1=over_tasks(lambda r: r.scores.f1),
        partial_credit=over_tasks(lambda r: r.scores.partial_credit),
        num_steps=num_steps,
        log_prob_vs_matched=_paired(rows, matched) if compared else None,
        log_prob_vs_untrained=_paired(rows, untrained) if is_edit and round_index > 0 else None,
    )


def _paired(rows: Sequence[ConditionResult], others: Sequence[ConditionResult]) -> Estimate | None:
    """How much better the rows' log-probability is than the others', over the tasks that both have."""
    ours, theirs = (_by_task(results, lambda r: r.scores.log_prob) for results in (rows, others))
    return estimate([ours[task_id] - theirs[task_id] for task_id in ours if task_id in theirs])


def _solved(result: ConditionResult) -> float | None:
    solved = result.scores.solved
    return solved if solved is None or result.failure is None else 0.0


def _by_task(results: Sequence[ConditionResult], score: Callable[[ConditionResult], float | None]) -> dict[str, float]:
    """A number for each task: the mean over its self-edits, where it has several."""
    found: dict[str, list[float]] = {}
    for result in results:
        if (value := score(result)) is not None:
            found.setdefault(result.task_id, []).append(value)
    return {task_id: sum(values) / len(values) for task_id, values in found.items()}


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and standard error of values; None of none."""
    n = len(values)
    if n == 0:
        return None
    mean = sum(values) / n
    if n == 1:
        return Estimate(mean=mean, standard_error=None, n=1)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean=mean, standard_error=math.sqrt(variance / n), n=n)
