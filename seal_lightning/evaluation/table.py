"""A test's results as a table: means with standard errors over tasks, and paired differences from the honest control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from seal_lightning.evaluation.conditions import Condition, ConditionResult
from seal_lightning.types import ExamScores


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
    """Tasks whose edit was malformed or whose adapter diverged; counted with their scores without adaptation."""
    num_unscored: int
    """Answers the grader could not score; left out of the accuracy."""
    log_prob: Estimate | None
    accuracy: Estimate | None
    exact_match: Estimate | None
    f1: Estimate | None
    num_steps: Estimate
    log_prob_vs_matched: Estimate | None
    """Paired difference, task by task, from the passage alone at equal steps on the same policy; None where there is none."""
    log_prob_vs_untrained: Estimate | None
    """Paired difference, task by task, from the self-edit that the policy wrote before training; for trained ones only."""


def condition_table(results: Sequence[ConditionResult]) -> list[ConditionRow]:
    """One row for each (condition, round) that occurs, in the order a reader wants."""
    keys = sorted({(_ORDER[r.condition], r.round, r.condition) for r in results}, key=lambda key: (key[0], key[1]))
    final_round = max((r.round for r in results), default=0)
    return [_row(results, condition, round_index, final_round) for _, round_index, condition in keys]


_ORDER = {condition: order for order, condition in enumerate(Condition)}


def _label(condition: Condition, round_index: int) -> str:
    trained = "before training" if round_index == 0 else f"after round {round_index}"
    return {
        Condition.NO_ADAPTATION: f"no adaptation, policy {trained}",
        Condition.IN_CONTEXT: "passage in context (a reference)",
        Condition.PASSAGE_ONLY: "passage only",
        Condition.PASSAGE_MATCHED: f"passage only at the final edit's steps, policy {trained}",
        Condition.SELF_EDIT: f"passage + self-edit {trained}",
    }[condition]


def _row(results: Sequence[ConditionResult], condition: Condition, round_index: int, final_round: int) -> ConditionRow:
    rows = [r for r in results if r.condition is condition and r.round == round_index]
    is_edit = condition is Condition.SELF_EDIT
    compared = is_edit and round_index in (0, final_round)
    matched = [r for r in results if r.condition is Condition.PASSAGE_MATCHED and r.round == round_index]
    untrained = [r for r in results if r.condition is Condition.SELF_EDIT and r.round == 0]

    def over_tasks(score: Callable[[ExamScores], float | None]) -> Estimate | None:
        return estimate([value for r in rows if (value := score(r.scores)) is not None])

    return ConditionRow(
        label=_label(condition, round_index),
        condition=condition,
        round=round_index,
        num_tasks=len(rows),
        num_questions=sum(len(r.scores.questions) for r in rows),
        num_failed=sum(r.failure is not None for r in rows),
        num_unscored=sum(r.scores.num_unscored for r in rows),
        log_prob=over_tasks(lambda scores: scores.log_prob),
        accuracy=over_tasks(lambda scores: scores.accuracy),
        exact_match=over_tasks(lambda scores: scores.exact_match),
        f1=over_tasks(lambda scores: scores.f1),
        num_steps=estimate([float(r.num_steps) for r in rows]) or Estimate(mean=0.0, standard_error=None, n=0),
        log_prob_vs_matched=_paired(rows, matched) if compared else None,
        log_prob_vs_untrained=_paired(rows, untrained) if is_edit and round_index > 0 else None,
    )


def _paired(rows: Sequence[ConditionResult], others: Sequence[ConditionResult]) -> Estimate | None:
    """How much better the rows' log-probability is than the others', over the tasks that both have."""
    of_other = {r.task_id: r.scores.log_prob for r in others}
    return estimate(
        [
            r.scores.log_prob - other
            for r in rows
            if r.scores.log_prob is not None and (other := of_other.get(r.task_id)) is not None
        ]
    )


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
