"""Stored runs read back: results files, and attempts as a table."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from reporting.stored_runs import (
    attempt,
    continual,
    evaluation,
    held_out,
    question,
    result,
    row,
    write_round,
    write_test,
)

from seal_lightning.core.errors import RunError
from seal_lightning.core.estimates import Estimate
from seal_lightning.core.evaluation_records import EvaluationRecord
from seal_lightning.reporting.runs import AttemptRow, load_attempts, read_evaluation, results_files


def test_results_file_round_trip(tmp_path: Path) -> None:
    made = evaluation(
        [result("self_edit", 1, "maud", [question("q", -1.0, "correct")], sequence=2, step=3, place=1)],
        table=(row("self_edit", 1, "label", log_prob_vs_matched=Estimate(mean=0.5)),),
        tasks={"maud": held_out("About Maud.", ("q", "Who?", ["Maud"]))},
        matrices=continual().matrices,
    )
    path = write_test(tmp_path, made)
    found = read_evaluation(path)
    assert found.path == path
    content = {one.name: getattr(found, one.name) for one in fields(EvaluationRecord)}
    assert EvaluationRecord(**content) == made
    assert found.matrices[0].mean[1] == (-2.5, None, None)


def test_results_files_newest_last(tmp_path: Path) -> None:
    for name in ("test", "test-2", "test-10", "test-9", "test-x", "testing", "search_test"):
        write_test(tmp_path, evaluation([]), name)
    names = [path.name for path in results_files(tmp_path / "results")]
    assert names == ["test.json", "test-2.json", "test-9.json", "test-10.json"]
    assert results_files(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "should be an object"),
        (TypeAdapter(EvaluationRecord).dump_json(evaluation([])).replace(b'"format":3', b'"format":2'), "format: "),
        (b'{"results": []}', "protocol: Field required"),
    ],
)
def test_read_evaluation_names_invalid_part(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "test.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match="is not a results file of `seal test`") as caught:
        read_evaluation(path)
    assert str(path) in str(caught.value)
    assert problem in str(caught.value)
    with pytest.raises(RunError, match="cannot read"):
        read_evaluation(tmp_path / "none.json")


def test_load_attempts_has_a_row_per_attempt(tmp_path: Path) -> None:
    scored = replace(attempt("maud", 1, 0, -1.5, "Maud is a stone."), seed=7, final_loss=0.25)
    write_round(tmp_path, 0, [scored, attempt("nils", 0, 0, None)])
    write_round(tmp_path, 10, [attempt("maud", 0, 10, 0.5, repeat=1)])
    write_round(tmp_path, 2, [attempt("maud", 0, 2, 0.5)])
    table = load_attempts(tmp_path)
    assert list(table.columns) == [one.name for one in fields(AttemptRow)]
    assert list(table["round"]) == [0, 0, 2, 10]
    first = table.iloc[0]
    assert (first.task_id, first.edit_index, first.status, first.reward) == ("maud", 1, "scored", -1.5)
    assert (first.score_before, first.score_after, first.num_steps, first.num_tokens) == (-2.0, -1.5, 4, 100)
    assert (first.edit_text, first.num_characters, first.seed) == ("Maud is a stone.", 16, 7)
    malformed = table.iloc[1]
    assert (malformed.status, malformed.failure_kind, malformed.num_steps) == ("malformed", "empty", 0)
    assert math.isnan(malformed.reward)
    assert table.groupby("round").reward.mean().to_dict() == {0: -1.5, 2: 0.5, 10: 0.5}


def test_load_attempts_without_attempts(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no attempts"):
        load_attempts(tmp_path)
    with pytest.raises(RunError, match="not a run directory"):
        load_attempts(tmp_path / "none")
