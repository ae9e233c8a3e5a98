"""The paired difference and its permutation test against numbers worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from reporting.stored_runs import continual, evaluation, held_out, question, result, write_test

from seal_lightning.core.errors import RunError
from seal_lightning.core.evaluation_records import ConditionResult, HeldOutTask
from seal_lightning.reporting.paired import (
    NUM_DRAWS,
    ComparisonSide,
    PairedComparison,
    chosen_side,
    paired_comparison,
    sign_flip_test,
)
from seal_lightning.reporting.runs import read_evaluation


def side(
    path: Path, results: Sequence[Any], score: str = "log_prob", condition: str = "self_edit", **more: Any
) -> ComparisonSide:
    number = len(list(path.glob("results/*")))
    test = read_evaluation(write_test(path, evaluation(results, **more), f"test-{number}"))
    return chosen_side(test, condition, None, None, score)


def one(task: str, *log_probs: float | None, round_index: int = 1, **more: Any) -> ConditionResult:
    questions = [question(f"q{i}", value) for i, value in enumerate(log_probs)]
    condition = more.pop("condition", "self_edit")
    return result(condition, round_index, task, questions, **more)


def difference(a: ComparisonSide, b: ComparisonSide, common: bool = False) -> PairedComparison:
    return paired_comparison(a, b, "log_prob", common=common)


def test_difference_by_hand(tmp_path: Path) -> None:
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


def test_edits_of_a_task_are_averaged_first(tmp_path: Path) -> None:
    a = side(tmp_path, [one("t", -1.0), one("t", -3.0), one("u", -1.0)])
    b = side(tmp_path, [one("t", -2.0), one("u", -1.0)])
    found = difference(a, b)
    assert found.difference.mean == 0.0
    assert found.num_questions == 2


def test_accuracy_skips_unscored_answers(tmp_path: Path) -> None:
    def scored(*statuses: str) -> list[ConditionResult]:
        return [result("self_edit", 1, f"t{i}", [question("q", -1.0, status)]) for i, status in enumerate(statuses)]

    a = side(tmp_path, scored("correct", "correct", "unscored", "wrong"), "accuracy")
    b = side(tmp_path, scored("wrong", "correct", "correct", "wrong"), "accuracy")
    found = paired_comparison(a, b, "accuracy", common=False)
    assert found.difference.mean == pytest.approx(1 / 3)
    assert (found.num_questions, found.num_unmeasured) == (3, 1)


def test_chosen_side_takes_last_round_and_step(tmp_path: Path) -> None:
    rounds = [one("t", -9.0), one("t", -1.0, round_index=2)]
    chosen = side(tmp_path, rounds)
    assert (chosen.arm.round, chosen.scores) == (2, {("t", "q0"): -1.0})
    test = read_evaluation(write_test(tmp_path, continual(), "test-9"))
    scores = chosen_side(test, "self_edit", None, None, "log_prob").scores
    assert [scores[f"task-0-{place}", "q"] for place in range(3)] == [-2.5, -2.25, -2.0]


def test_chosen_side_averages_repeated_tasks(tmp_path: Path) -> None:
    results = [
        one("t", -1.0, sequence=0, step=8),
        one("t", -2.0, sequence=1, step=3),
        one("t", -9.0, sequence=1, step=2),
    ]
    assert side(tmp_path, results).scores == {("t", "q0"): -1.5}


def test_other_questions_are_refused_with_counts(tmp_path: Path) -> None:
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


def test_changed_questions_are_not_compared(tmp_path: Path) -> None:
    def tasks(gold: str) -> dict[str, HeldOutTask]:
        return {"t": held_out("", ("q0", "Who?", [gold]), ("q1", "When?", ["then"]))}

    a = side(tmp_path, [one("t", -1.0, -1.0)], tasks=tasks("Maud"))
    b = side(tmp_path, [one("t", -2.0, -3.0)], tasks=tasks("Nils"))
    with pytest.raises(RunError, match="1 in both with another text or other gold answers"):
        difference(a, b)
    assert difference(a, b, common=True).difference.mean == 2.0


def test_chosen_side_lists_what_the_file_has(tmp_path: Path) -> None:
    test = read_evaluation(
        write_test(tmp_path, evaluation([one("t", -1.0), one("t", -1.0, name="x", condition="other_writer")]))
    )
    with pytest.raises(RunError, match=r"no results of without_edit; it has self_edit \(round 1\), other_writer"):
        chosen_side(test, "without_edit", None, None, "log_prob")
    with pytest.raises(RunError, match="no results of self_edit, round 7"):
        chosen_side(test, "self_edit", 7, None, "log_prob")
    assert chosen_side(test, "other_writer", None, None, "log_prob").arm.name == "x"
    both = [one("t", -1.0, name=name, condition="other_writer") for name in ("x", "y")]
    test = read_evaluation(write_test(tmp_path, evaluation(both), "test-2"))
    with pytest.raises(RunError, match="Choose one with --name"):
        chosen_side(test, "other_writer", None, None, "log_prob")
    assert chosen_side(test, "other_writer", None, "y", "log_prob").arm.name == "y"
    a = side(tmp_path, [one("t", -1.0)], "f1")
    with pytest.raises(RunError, match="share 1 questions, and none has f1 on both sides"):
        paired_comparison(a, a, "f1", common=False)


def p_by_counting(differences: list[float]) -> float:
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(1, 8))
def test_sign_flip_test_counts_every_sign(seed: int) -> None:
    generator = random.Random(seed)
    differences = [generator.gauss(0.4, 1.0) for _ in range(seed + 1)]
    found = sign_flip_test(differences)
    assert (found.is_exact, found.num_signs) == (True, 2 ** len(differences))
    assert found.p_value == pytest.approx(p_by_counting(differences))


def test_sign_flip_test_known_values() -> None:
    assert sign_flip_test([1.0]).p_value == 1.0
    assert sign_flip_test([0.3] * 6).p_value == 2 / 64
    assert sign_flip_test([0.0] * 5).p_value == 1.0
    assert sign_flip_test([-0.1, -0.2, -0.7]).p_value == sign_flip_test([0.1, 0.2, 0.7]).p_value
    assert sign_flip_test([1.0] * 40).p_value == 2 / (NUM_DRAWS + 1)


def test_sign_flip_draws_approach_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(5)
    differences = [generator.gauss(0.3, 1.0) for _ in range(13)]
    exact = sign_flip_test(differences).p_value
    monkeypatch.setattr("seal_lightning.reporting.paired.MAX_EXACT", 4)
    monkeypatch.setattr("seal_lightning.reporting.paired.NUM_DRAWS", 4_000)
    drawn = sign_flip_test(differences, seed=1)
    assert not drawn.is_exact
    assert drawn.p_value == pytest.approx(exact, abs=0.03)
    assert sign_flip_test(differences, seed=1) == drawn
