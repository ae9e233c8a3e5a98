"""What an adaptation costs elsewhere: scores of one task before and after it, paired over the same samples. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.reporting.text import label

_MOST_OFF = 1e-6
"""A mean of samples that is further from what the harness says is not its metric (a perplexity, an F1 of all)."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One metric of one task."""

    task: str
    metric: str
    """The harness's name for it, with its filter where there is one (``acc``, ``exact_match,strict``)."""
    before: Estimate
    """With the harness's own standard error."""
    adapted: Estimate
    difference: Estimate
    """Adapted less before, of n samples (0 of a group of tasks); its standard error is paired over them, None where the
    metric is no mean over samples."""
    higher_is_better: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """``lm_eval.json``."""

    folder: str
    """The adapted folder's name."""
    base: str
    scores: tuple[TaskScore, ...]
    limit: int | None = None
    """Samples of each task at most."""
    num_fewshot: int | None = None
    """None: as each task says."""
    task_versions: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def paired_scores(before: Mapping[str, Any], adapted: Mapping[str, Any]) -> tuple[TaskScore, ...]:
    """The metrics of all tasks from what ``lm_eval.evaluate`` returned for the two models, samples included."""
    return tuple(score for task in before["results"] for score in _of_task(task, before, adapted))


def table_lines(scores: Sequence[TaskScore]) -> Iterator[str]:
    """A table in plain text, columns aligned."""
    rows = [("task", "metric", "n", "before", "adapted", "difference")]
    for score in scores:
        values = (
            shown_estimate(score.before),
            shown_estimate(score.adapted),
            shown_estimate(score.difference, signed=True),
        )
        lower = " (lower is better)" if score.higher_is_better is False else ""
        rows.append((label(score.task), label(score.metric) + lower, str(score.difference.n or "–"), *values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _of_task(task: str, before: Mapping[str, Any], adapted: Mapping[str, Any]) -> Iterator[TaskScore]:
    higher = before.get("higher_is_better", {}).get(task, {})
    for key, value in before["results"][task].items():
        metric, _, filtered = key.partition(",")
        after = adapted["results"][task].get(key)
        if metric.endswith("_stderr") or not (_is_number(value) and _is_number(after)) or not filtered:
            continue
        differences = _differences(task, metric, filtered, before, adapted)
        n = len(_samples(task, filtered, before))
        yield TaskScore(
            task=task,
            metric=metric if filtered == "none" else key,
            before=_reported(before["results"][task], key, n),
            adapted=_reported(adapted["results"][task], key, n),
            difference=_paired(differences, after - value, n),
            higher_is_better=higher.get(metric),
        )


def _paired(differences: Sequence[float], reported: float, n: int) -> Estimate:
    found = estimate(differences)
    if found is None or abs(found.mean - reported) > _MOST_OFF:
        return Estimate(mean=float(reported), standard_error=None, n=n)
    return found


def _differences(
    task: str, metric: str, filtered: str, before: Mapping[str, Any], adapted: Mapping[str, Any]
) -> list[float]:
    """Adapted less before of each sample; none where the two were not asked the same, or samples have no such number."""
    first, second = _samples(task, filtered, before), _samples(task, filtered, adapted)
    if first.keys() != second.keys():
        return []
    differences = []
    for doc_id in first:
        a, b = first[doc_id].get(metric), second[doc_id].get(metric)
        if not (_is_number(a) and _is_number(b)):
            return []
        differences.append(float(b) - float(a))
    return differences


def _samples(task: str, filtered: str, results: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    found = results.get("samples", {}).get(task, ())
    return {sample["doc_id"]: sample for sample in found if sample.get("filter", "none") == filtered}


def _reported(of_task: Mapping[str, Any], key: str, n: int) -> Estimate:
    metric, _, filtered = key.partition(",")
    error = of_task.get(f"{metric}_stderr,{filtered}")
    return Estimate(mean=float(of_task[key]), standard_error=float(error) if _is_number(error) else None, n=n)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
