"""The matrix metric: means and spreads by arm, step and place, also over ranks."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import pytest
import torch

from seal_lightning.core import ConditionNames, ExamScores, QuestionScore
from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult
from seal_lightning.evaluation.held_out import EpisodeMatrix

EDIT = Arm(condition=Condition.SELF_EDIT, round=0)
LATER = Arm(condition=Condition.SELF_EDIT, round=1)


def cell(arm: Arm, sequence: int, step: int, place: int, log_prob: float | None) -> ConditionResult:
    scores = ExamScores(questions=(QuestionScore(question_id="q", log_prob=log_prob),))
    names = {"condition": arm.condition, "round": arm.round, "name": arm.name}
    return ConditionResult(**names, task_id="t", scores=scores, sequence=sequence, step=step, place=place)  # type: ignore[arg-type]


def unadapted(round_index: int, sequence: int, place: int, log_prob: float) -> ConditionResult:
    return cell(Arm(condition=Condition.NO_ADAPTATION, round=round_index), sequence, 0, place, log_prob)


def matrix(arms: Sequence[Arm] = (EDIT, LATER)) -> EpisodeMatrix:
    return EpisodeMatrix(arms, num_steps=2, num_places=2, score="log_prob")


def test_matrix_by_hand() -> None:
    metric = matrix()
    metric.update([unadapted(0, s, p, -4.0 - s) for s in range(2) for p in range(2)])
    metric.update([unadapted(1, 0, 0, -9.0)])
    metric.update([cell(EDIT, 0, 1, 0, -1.0), cell(EDIT, 1, 1, 0, -3.0), cell(EDIT, 0, 2, 0, -2.0)])
    metric.update([cell(EDIT, 0, 2, 1, None)])
    first, second = metric.estimates(ConditionNames())
    assert (first.condition, first.round, first.label) == (EDIT.condition, 0, "self-edit before training")
    assert first.mean == ((-4.5, -4.5), (-2.0, None), (-2.0, None))
    assert first.n == ((2, 2), (2, 0), (1, 0))
    assert first.standard_deviation[1][0] == pytest.approx(2**0.5)
    assert first.standard_error[1][0] == pytest.approx(1.0)
    assert first.standard_error[2][0] is None
    assert second.mean == ((-9.0, None), (None, None), (None, None))


def test_matrix_counts_edits_of_a_task_once() -> None:
    metric = matrix()
    metric.update([cell(EDIT, 0, 1, 0, -1.0), cell(EDIT, 0, 1, 0, -3.0), cell(EDIT, 1, 1, 0, -5.0)])
    (first, _) = metric.estimates(ConditionNames())
    assert (first.mean[1][0], first.n[1][0]) == (-3.5, 2)


def test_matrix_sums_over_ranks() -> None:
    """What two ranks sum is what one has that saw everything."""
    draw = random.Random(1)
    cells = [
        cell(arm, s, step, place, draw.gauss(0, 1))
        for arm in (EDIT, LATER)
        for s in range(5)
        for step, place in ((1, 0), (2, 0), (2, 1))
    ]
    whole, *ranks = matrix(), matrix(), matrix()
    whole.update(cells)
    for rank, metric in enumerate(ranks):
        metric.update([c for c in cells if c.sequence % 2 == rank])
    summed = matrix()
    for name in ("total", "squares", "count"):
        assert summed._reductions[name] is not None
        reduced = summed._reductions[name](torch.stack([getattr(metric, name) for metric in ranks]))  # type: ignore[misc, operator]
        setattr(summed, name, reduced)
    for one, other in zip(whole.estimates(ConditionNames()), summed.estimates(ConditionNames()), strict=True):
        assert one.n == other.n
        for name in ("mean", "standard_deviation"):
            for of_one, of_other in zip(getattr(one, name), getattr(other, name), strict=True):
                assert of_one == pytest.approx(of_other)
    values = [c.scores.log_prob for c in cells if (c.arm, c.step, c.place) == (EDIT, 2, 1)]
    assert whole.estimates(ConditionNames())[0].standard_deviation[2][1] == pytest.approx(
        statistics.stdev(v for v in values if v)
    )


def test_matrix_deviation_is_the_papers_pooled() -> None:
    """SS = Σ[(n−1)σ² + nμ²], var = (SS − Nμ²)/(N−1), from each of its runs' means and standard deviations."""
    draw = random.Random(2)
    runs = [[draw.gauss(i, 2) for _ in range(n)] for i, n in enumerate((8, 3, 8))]
    metric = matrix([EDIT])
    metric.update([cell(EDIT, i, 1, 0, value) for i, value in enumerate(value for run in runs for value in run)])
    total = sum(map(len, runs))
    mean = sum(map(sum, runs)) / total
    squares = sum((len(r) - 1) * statistics.variance(r) + len(r) * statistics.mean(r) ** 2 for r in runs)
    pooled = ((squares - total * mean**2) / (total - 1)) ** 0.5
    (found,) = metric.estimates(ConditionNames())
    assert found.standard_deviation[1][0] == pytest.approx(pooled)
    assert found.standard_error[1][0] == pytest.approx(pooled / total**0.5)
