"""Means, standard errors and paired differences of the test's table."""

import math
from dataclasses import replace

import pytest

from seal_lightning.core import ConditionNames, ExamScores, QuestionScore, Verdict, VerdictStatus
from seal_lightning.core.estimates import estimate
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.reporting.condition_table import condition_table
from seal_lightning.reporting.document import markdown_table
from seal_lightning.reporting.result_tables import rows_table

NAMES = ConditionNames(
    unadapted="none",
    in_context="in context",
    without_edit="passage",
    self_edit="edit",
    other_writer="other edits by",
)
ONCE = ("in_context", "without_edit", "outside_adapter", "other_writer")


def result(condition: Condition, round_index: int, task: str, log_prob: float, **more: object) -> ConditionResult:
    statuses = (VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED)
    questions = tuple(
        QuestionScore(question_id=str(i), log_prob=log_prob, verdict=Verdict(question_id=str(i), status=status))
        for i, status in enumerate(statuses)
    )
    scores = ExamScores(questions=questions)
    return ConditionResult(condition=condition, round=round_index, task_id=task, scores=scores, taught=True, **more)  # type: ignore[arg-type]


def test_estimate() -> None:
    assert estimate([]) is None
    one = estimate([2.0])
    assert one is not None
    assert (one.mean, one.standard_error, one.n) == (2.0, None, 1)
    three = estimate([1.0, 2.0, 3.0])
    assert three is not None
    assert three.standard_error == pytest.approx(1 / math.sqrt(3))


def test_condition_table_paired_differences() -> None:
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
    rows = {(row.condition, row.round): row for row in condition_table(results, NAMES)}
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


def test_condition_table_ignores_order_of_results() -> None:
    results = [result(Condition.SELF_EDIT, r, t, -float(r) - ord(t)) for r in (0, 1) for t in "abc"]
    assert condition_table(results, NAMES) == condition_table(results[::-1], NAMES)


def test_markdown_table_has_a_line_per_row() -> None:
    rows = condition_table([result(Condition.IN_CONTEXT, 0, "a", -1.0)], NAMES)
    lines = list(markdown_table(rows_table(rows, "")))
    assert len(lines) == 3
    assert "-1.00" in lines[2]
    assert len({line.count("|") for line in lines}) == 1


def grids(
    condition: Condition, task: str, solved: bool, share: float, num_steps: int, **more: object
) -> ConditionResult:
    """One question of six views, as ARC has them."""
    status = VerdictStatus.CORRECT if solved else VerdictStatus.WRONG
    question = QuestionScore(
        question_id="0",
        log_prob=-share,
        verdict=Verdict(question_id="0", status=status),
        partial_credit=share,
        num_views=6,
        num_invalid=2,
    )
    scores = ExamScores(questions=(question,))
    return ConditionResult(
        condition=condition, round=0, task_id=task, scores=scores, num_steps=num_steps, taught=True, **more
    )  # type: ignore[arg-type]


def test_condition_table_averages_edits_by_task() -> None:
    edit = Condition.SELF_EDIT
    results = [
        grids(edit, "a", True, 1.0, 10),
        grids(edit, "a", False, 0.5, 20),
        grids(edit, "a", True, 0.0, 0, failure="malformed: not JSON"),  # solved without adaptation, but not by it
        grids(edit, "b", True, 1.0, 30),
    ]
    results += [grids(Condition.WITHOUT_EDIT_MATCHED, task, False, 0.5, 10) for task in "ab"]
    (row,) = (r for r in condition_table(results, NAMES) if r.condition is edit)
    for found, of_a, of_b in (
        (row.solved, 1 / 3, 1.0),
        (row.accuracy, 2 / 3, 1.0),
        (row.partial_credit, 0.5, 1.0),
        (row.log_prob, -0.5, -1.0),
        (row.num_steps, 10.0, 30.0),
        (row.log_prob_vs_matched, 0.0, -0.5),
    ):
        assert found is not None
        assert (found.mean, found.n) == (pytest.approx((of_a + of_b) / 2), 2)
        assert found.standard_error == pytest.approx(abs(of_a - of_b) / 2)
    assert (row.num_tasks, row.num_questions, row.num_failed) == (2, 2, 1)
    assert (row.num_views, row.num_invalid) == (18, 6)  # of what was learned


def test_condition_table_partly_solved_tasks() -> None:
    half = result(Condition.SELF_EDIT, 0, "a", -1.0)
    (row,) = condition_table([half], NAMES)
    assert row.solved is None  # one of its answers could not be scored
    assert row.accuracy is not None
    assert row.accuracy.mean == 0.5
    scores = ExamScores(questions=half.scores.questions[:2])
    (row,) = condition_table([replace(half, scores=scores)], NAMES)
    assert row.solved is not None
    assert row.solved.mean == 0.0


def test_condition_table_names_and_order() -> None:
    named = {Condition.OUTSIDE_ADAPTER: "mine", Condition.OTHER_WRITER: "mine"}
    conditions = [(r, c) for r in (2, 1, 0) for c in reversed(Condition) if r == 0 or c not in ONCE]
    results = [result(c, r, "a", -1.0, name=named.get(c, "")) for r, c in conditions]
    rows = condition_table(results, NAMES)
    trained = ("before training", "after round 1", "after round 2")
    assert [row.label for row in rows] == [
        *(f"none, policy {when}" for when in trained),
        "in context",
        "adapter mine",
        "passage",
        *(f"passage at the final edit's steps, policy {when}" for when in trained),
        "other edits by mine",
        *(f"edit {when}" for when in trained),
    ]


def test_rows_table_drops_empty_columns() -> None:
    of_grids = [grids(Condition.SELF_EDIT, "a", True, 1.0, 3)]
    table = rows_table(condition_table(of_grids, NAMES), "")
    shown = dict(zip(table.headings, table.rows[0], strict=True))
    assert (shown["solved"], shown["cells right"], shown["invalid"]) == ("1.000", "1.000", "2 of 6")
    assert "F1" not in shown
    texts = [as_text_domains_have_it(result(Condition.SELF_EDIT, 0, "a", -1.0)) for _ in range(5)]  # edits of one task
    rows = condition_table(texts, NAMES)
    assert rows[0].solved is not None
    headings = rows_table(rows, "").headings
    assert {"log-prob (nats)", "accuracy"} <= {*headings}
    assert not {"solved", "cells right", "invalid"} & {*headings}


def as_text_domains_have_it(one: ConditionResult) -> ConditionResult:
    """One view a question; all questions scored."""
    questions = tuple(replace(q, num_views=1) for q in one.scores.questions[:2])
    return replace(one, scores=ExamScores(questions=questions))


def test_condition_table_without_results() -> None:
    assert condition_table([], NAMES) == []
