"""Means, standard errors and paired differences of the test's table."""

import math

import pytest

from seal_lightning.callbacks.test_table import markdown
from seal_lightning.evaluation import Condition, ConditionResult, condition_table
from seal_lightning.evaluation.table import estimate
from seal_lightning.types import ExamScores, QuestionScore, Verdict, VerdictStatus


def result(condition: Condition, round_index: int, task: str, log_prob: float, **more: object) -> ConditionResult:
    statuses = (VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED)
    questions = tuple(
        QuestionScore(question_id=str(i), log_prob=log_prob, verdict=Verdict(question_id=str(i), status=status))
        for i, status in enumerate(statuses)
    )
    scores = ExamScores(questions=questions)
    return ConditionResult(condition=condition, round=round_index, task_id=task, scores=scores, **more)  # type: ignore[arg-type]


def test_estimate() -> None:
    assert estimate([]) is None
    one = estimate([2.0])
    assert one is not None
    assert (one.mean, one.standard_error, one.n) == (2.0, None, 1)
    three = estimate([1.0, 2.0, 3.0])
    assert three is not None
    assert three.standard_error == pytest.approx(1 / math.sqrt(3))


def test_rows_and_paired_differences() -> None:
    results = [
        result(Condition.SELF_EDIT, 0, "a", -4.0, num_steps=4),
        result(Condition.SELF_EDIT, 0, "b", -6.0, num_steps=8, failure="malformed: empty"),
        result(Condition.SELF_EDIT, 1, "b", -3.0),
        result(Condition.SELF_EDIT, 1, "a", -3.5),
        result(Condition.WITHOUT_EDIT_MATCHED, 0, "a", -3.0),
        result(Condition.WITHOUT_EDIT_MATCHED, 0, "b", -3.0),
        result(Condition.WITHOUT_EDIT_MATCHED, 1, "a", -3.25),
        result(Condition.WITHOUT_EDIT_MATCHED, 1, "b", -2.75),
    ]
    rows = {(row.condition, row.round): row for row in condition_table(results)}
    before, after = rows[Condition.SELF_EDIT, 0], rows[Condition.SELF_EDIT, 1]
    assert before.log_prob is not None
    assert before.log_prob.mean == -5.0
    assert before.log_prob.standard_error == 1.0
    assert before.num_steps.mean == 6.0
    assert (before.num_tasks, before.num_questions, before.num_failed, before.num_unscored) == (2, 6, 1, 2)
    assert before.accuracy is not None
    assert before.accuracy.mean == 0.5  # the unscored answer is in no mean
    assert before.log_prob_vs_matched is not None
    assert before.log_prob_vs_matched.mean == -2.0
    assert before.log_prob_vs_untrained is None
    assert after.log_prob_vs_matched is not None
    assert after.log_prob_vs_matched.mean == pytest.approx(-0.25)
    assert after.log_prob_vs_untrained is not None
    assert after.log_prob_vs_untrained.mean == pytest.approx(1.75)
    assert rows[Condition.WITHOUT_EDIT_MATCHED, 1].log_prob_vs_matched is None


def test_the_order_of_results_changes_nothing() -> None:
    results = [result(Condition.SELF_EDIT, r, t, -float(r) - ord(t)) for r in (0, 1) for t in "abc"]
    assert condition_table(results) == condition_table(results[::-1])


def test_markdown_has_a_line_a_row() -> None:
    lines = markdown(condition_table([result(Condition.IN_CONTEXT, 0, "a", -1.0)])).splitlines()
    assert len(lines) == 3
    assert "-1.00" in lines[2]
    assert len({line.count("|") for line in lines}) == 1
