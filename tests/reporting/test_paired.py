"""The paired difference against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reporting.stored_runs import continual, question, result, results_file, write_test

from seal_lightning.core.errors import RunError
from seal_lightning.reporting.paired import Comparison, Side, chosen_side, compared
from seal_lightning.reporting.result_files import read_result


def side(
    path: Path, results: Sequence[Any], score: str = "log_prob", condition: str = "self_edit", **more: Any
) -> Side:
    number = len(list(path.glob("results/*")))
    test = read_result(write_test(path, results_file(results, **more), f"test-{number}"))
    return chosen_side(test, condition, None, None, score)


def one(task: str, *log_probs: float | None, **more: Any) -> dict[str, Any]:
    made = result("self_edit", 1, task, [question(f"q{i}", value) for i, value in enumerate(log_probs)])
    return made | more


def difference(a: Side, b: Side, common: bool = False) -> Comparison:
    return compared(a, b, "log_prob", common=common)


def test_by_hand(tmp_path: Path) -> None:
    """Tasks count once each, however many questions they have."""
    a = side(tmp_path, [one("t", -1.0, -2.0), one("u", -1.0), one("v", -3.0)])
    b = side(tmp_path, [one("t", -2.0, -2.5), one("u", -1.5), one("v", -3.25)])
    found = difference(a, b)
    # differences: t (1 + 0.5) / 2 = 0.75, u 0.5, v 0.25: mean 0.5, sample sd 0.25
    assert found.difference.mean == pytest.approx(0.5)
    assert found.difference.standard_error == pytest.approx(0.25 / 3**0.5)
    assert (found.difference.n, found.num_questions, found.test.p_value) == (3, 4, 0.25)
    assert (found.mean_a.mean, found.mean_b.mean) == (pytest.approx(-5.5 / 3), pytest.approx(-7 / 3))
    assert difference(b, a).difference.mean == pytest.approx(-0.5)
    assert difference(b, a).test.p_value == found.test.p_value
    assert not found.is_significant


def test_a_task_s_edits_are_averaged_first(tmp_path: Path) -> None:
    a = side(tmp_path, [one("t", -1.0), one("t", -3.0), one("u", -1.0)])
    b = side(tmp_path, [one("t", -2.0), one("u", -1.0)])
    found = difference(a, b)
    assert found.difference.mean == 0.0
    assert found.num_questions == 2


def test_accuracy_leaves_the_unscored_out(tmp_path: Path) -> None:
    def scored(*statuses: str) -> list[dict[str, Any]]:
        return [result("self_edit", 1, f"t{i}", [question("q", -1.0, status)]) for i, status in enumerate(statuses)]

    a = side(tmp_path, scored("correct", "correct", "unscored", "wrong"), "accuracy")
    b = side(tmp_path, scored("wrong", "correct", "correct", "wrong"), "accuracy")
    found = compared(a, b, "accuracy", common=False)
    assert found.difference.mean == pytest.approx(1 / 3)
    assert (found.num_questions, found.num_unmeasured) == (3, 1)


def test_the_last_round_and_the_last_step_are_taken(tmp_path: Path) -> None:
    rounds = [one("t", -9.0), one("t", -1.0) | {"round": 2}]
    chosen = side(tmp_path, rounds)
    assert (chosen.round, chosen.scores) == (2, {("t", "q0"): -1.0})
    test = read_result(write_test(tmp_path, continual(), "test-9"))
    scores = chosen_side(test, "self_edit", None, None, "log_prob").scores
    assert [scores[f"task-0-{place}", "q"] for place in range(3)] == [-2.5, -2.25, -2.0]


def test_a_task_that_comes_in_two_sequences_counts_in_both(tmp_path: Path) -> None:
    results = [
        one("t", -1.0, sequence=0, step=8),
        one("t", -2.0, sequence=1, step=3),
        one("t", -9.0, sequence=1, step=2),
    ]
    assert side(tmp_path, results).scores == {("t", "q0"): -1.5}


def test_other_questions_are_refused_with_their_numbers(tmp_path: Path) -> None:
    a = side(tmp_path, [one("t", -1.0, -1.0), one("u", -1.0)])
    b = side(tmp_path, [one("t", -2.0), one("v", -1.0), one("w", -1.0)])
    with pytest.raises(RunError) as caught:
        difference(a, b)
    assert "2 only in A (the first: task 't', question 'q1'), 2 only in B (the first: task 'v', question 'q0')" in str(
        caught.value
    )
    assert "--common" in str(caught.value)
    found = difference(a, b, common=True)
    assert (found.difference.mean, found.num_questions, found.num_only_a, found.num_only_b) == (1.0, 1, 2, 2)


def test_the_same_id_with_another_question_is_no_common_one(tmp_path: Path) -> None:
    def tasks(gold: str) -> dict[str, Any]:
        questions = {"q0": {"question": "Who?", "gold": [gold]}, "q1": {"question": "When?", "gold": ["then"]}}
        return {"t": {"context": "", "questions": questions}}

    a = side(tmp_path, [one("t", -1.0, -1.0)], tasks=tasks("Maud"))
    b = side(tmp_path, [one("t", -2.0, -3.0)], tasks=tasks("Nils"))
    with pytest.raises(RunError, match="1 in both with another text or other gold answers"):
        difference(a, b)
    assert difference(a, b, common=True).difference.mean == 2.0
    old = side(tmp_path, [one("t", -2.0, -3.0)])
    assert difference(a, old).num_questions == 2  # an older file does not say


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    test = read_result(
        write_test(tmp_path, results_file([one("t", -1.0), one("t", -1.0, name="x", condition="other_writer")]))
    )
    with pytest.raises(RunError, match=r"no results of without_edit; it has self_edit \(round 1\), other_writer"):
        chosen_side(test, "without_edit", None, None, "log_prob")
    with pytest.raises(RunError, match="no results of self_edit, round 7"):
        chosen_side(test, "self_edit", 7, None, "log_prob")
    assert chosen_side(test, "other_writer", None, None, "log_prob").name == "x"
    both = [one("t", -1.0, name=name, condition="other_writer") for name in ("x", "y")]
    test = read_result(write_test(tmp_path, results_file(both), "test-2"))
    with pytest.raises(RunError, match="say which with --name"):
        chosen_side(test, "other_writer", None, None, "log_prob")
    assert chosen_side(test, "other_writer", None, "y", "log_prob").name == "y"
    a = side(tmp_path, [one("t", -1.0)], "f1")
    with pytest.raises(RunError, match="share 1 questions, and none has f1 on both sides"):
        compared(a, a, "f1", common=False)
