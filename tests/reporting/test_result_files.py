"""Results files: both formats, and what is no results file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from reporting.stored_runs import continual, estimate, question, result, results_file, row, write_test
from storage.test_records import EXAM

from seal_lightning.core import SelfEdit
from seal_lightning.core.errors import RunError
from seal_lightning.reporting import result_files
from seal_lightning.reporting.result_files import read_result


def test_format_2(tmp_path: Path) -> None:
    made = results_file(
        [result("self_edit", 1, "maud", [question("q", -1.0, "correct")], sequence=2, step=3, place=1)],
        table=[row("self_edit", 1, "label", log_prob_vs_matched=estimate(0.5, None, 1))],
        tasks={"maud": {"context": "About Maud.", "questions": {"q": {"question": "Who?", "gold": ["Maud"]}}}},
    )
    found = read_result(write_test(tmp_path, made))
    assert (found.protocol.name, found.model.pretrained, found.device, found.seconds) == (
        "single passage",
        "tiny",
        "cpu",
        12.5,
    )
    (one,) = found.results
    assert (one.sequence, one.step, one.place, one.num_tokens, one.scores.accuracy) == (2, 3, 1, 50.0, 1.0)
    assert one.edits[0].text == "Notes on maud"
    assert found.tasks["maud"].questions["q"].gold == ("Maud",)
    difference = found.table[0].log_prob_vs_matched
    assert difference is not None
    assert (difference.mean, difference.standard_error, difference.n) == (0.5, None, 1)


def test_what_a_test_writes_now_is_read(tmp_path: Path) -> None:
    from seal_lightning.evaluation.conditions import Condition, ConditionResult
    from seal_lightning.storage.journal import to_plain

    edit = SelfEdit(task_id="t", edit_index=1, text="é", token_ids=(1, 2))
    made = ConditionResult(condition=Condition.SELF_EDIT, round=2, task_id="t", scores=EXAM, edits=(edit,))
    found = read_result(write_test(tmp_path, results_file(to_plain([made], ConditionResult)))).results[0]
    assert (found.condition, found.round, found.step, found.scores) == ("self_edit", 2, made.step, EXAM)
    assert [asdict(edit) for edit in found.edits] == [{"text": "é", "edit_index": 1}]


def test_files_of_older_versions(tmp_path: Path) -> None:
    scores = {"questions": [question("q", -1.0)]}
    old = {"round": 0, "task_id": "t", "scores": scores, "num_steps": 4}
    edit = {"task_id": "t", "edit_index": 0, "text": "notes", "token_ids": [1]}
    results = [
        old | {"condition": "no_adaptation", "edit": None},
        old | {"condition": "self_edit", "edit": edit},
        old | {"condition": "passage_only", "edit": None},
        old | {"condition": "passage_matched", "edit": None},
    ]
    rows = [{"label": "passage only", "condition": "passage_only", "round": 0, "log_prob": estimate(-1.0)}]
    found = read_result(write_test(tmp_path, {"table": rows, "results": results}))
    assert found.protocol.name == "single passage"
    assert [(r.condition, r.step, len(r.edits)) for r in found.results] == [
        ("no_adaptation", 0, 0),
        ("self_edit", 1, 1),
        ("without_edit", 1, 0),
        ("without_edit_matched", 1, 0),
    ]
    assert found.table[0].condition == "without_edit"
    assert found.tasks == {}


def test_the_newest_comes_last(tmp_path: Path) -> None:
    for name in ("test", "test-2", "test-10", "test-9", "test-x", "testing", "search_test"):
        write_test(tmp_path, results_file([]), name)
    names = [path.name for path in result_files.test_files(tmp_path / "results")]
    assert names == ["test.json", "test-2.json", "test-9.json", "test-10.json"]
    assert result_files.test_files(tmp_path / "nothing") == []


def test_matrices_keep_their_gaps(tmp_path: Path) -> None:
    (matrix,) = read_result(write_test(tmp_path, continual())).matrices
    assert matrix.mean[1] == (-2.5, None, None)
    assert matrix.n[1] == (2, 0, 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "Expecting property name"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "no list of `results`"),
        (b'{"format": 2, "results": 3}', "no list of `results`"),
        (b'{"format": 2, "results": [{"condition": "self_edit"}]}', "results.0.round"),
        (b'{"format": 2, "results": [], "seconds": NaN}', "no number that a test measures"),
        (b'{"format": 2, "results": [], "seconds": 1e999}', "no number that a test measures"),
        (b'{"format": 2, "results": [], "seconds": 1e300}', "no number that a test measures"),
        (b'{"format": 2, "results": [], "seconds": 1' + b"0" * 4000 + b"}", "seconds"),
        (b'{"format": 2, "results": [], "table": [{"label": 3}]}', "table.0.label"),
        (b'{"results": ["x"]}', "results.0"),
    ],
)
def test_damage_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "test.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match="is no results file of `seal test`") as caught:
        read_result(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 800


def test_ragged_matrices_later_formats_and_too_large_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ragged = continual()
    ragged["matrices"][0]["mean"][1] = [1.0]
    with pytest.raises(RunError, match="not of one length"):
        read_result(write_test(tmp_path, ragged))
    with pytest.raises(RunError, match="has the format 3; this version reads"):
        read_result(write_test(tmp_path, {"format": 3, "results": []}))
    with pytest.raises(RunError, match="cannot be read"):
        read_result(tmp_path / "none.json")
    monkeypatch.setattr(result_files, "MAX_TEST_BYTES", 100)
    with pytest.raises(RunError, match="has more than"):
        read_result(write_test(tmp_path, results_file([], seconds=1.0, device=json.dumps("x" * 200))))
