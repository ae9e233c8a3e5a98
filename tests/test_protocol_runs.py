"""`seal test` under each protocol, with other writers, adapters from outside and a student, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import ToyDomain, ToyTasks, write_tiny_model
from test_end_to_end import TESTS, attempts, config, fit

from seal_lightning.cli.lightning_cli import run
from seal_lightning.cli.main import main
from seal_lightning.core.errors import DataError
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained

CONTINUAL = {"class_path": "seal_lightning.evaluation.ContinualSelfEdits", "init_args": {"num_steps": 2}}
PRETRAINING = {"class_path": "seal_lightning.evaluation.ContinuedPretraining"}


def settings(folder: Path, run_dir: Path, **model: Any) -> dict[str, Any]:
    found = config(folder, run_dir, **model)
    found["data"]["test"]["init_args"]["num_tasks"] = 5
    return found


def outcome_of(tmp_path: Path, found: dict[str, Any], *more: str) -> dict[str, Any]:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(found))
    assert main(["test", "-c", str(path), *more]) == 0
    content: dict[str, Any] = json.loads((Path(found["run_dir"]) / "results" / "test.json").read_text())
    return content


def by_arm(content: dict[str, Any]) -> dict[tuple[str, int, str], dict[str, Any]]:
    return {(row["condition"], row["round"], row["name"]): row for row in content["table"]}


def test_continued_pretraining(tiny_folder: Path, tmp_path: Path) -> None:
    full = {"class_path": "seal_lightning.inner_loop.FullFinetuning"}
    protocol = PRETRAINING | {"init_args": {"num_tasks": 4, "optimizer": {"learning_rate": 0.01, "num_epochs": 2}}}
    found = settings(tiny_folder, tmp_path / "run", protocol=protocol, inner_loop=full, test_edits=2)
    content = outcome_of(tmp_path, found)
    assert content["format"] == 3
    assert content["protocol"]["name"] == "continued pretraining"
    assert content["protocol"]["settings"]["optimizer"]["learning_rate"] == 0.01
    assert (content["protocol"]["num_steps"], content["protocol"]["num_sequences"]) == (1, 1)
    assert content["inner_loop"] == "FullFinetuning"
    assert content["seconds"] > 0
    assert content["peak_memory_bytes"] > 10_000_000
    rows = by_arm(content)
    assert rows["self_edit", 0, ""]["num_tasks"] == 4
    assert rows["self_edit", 0, ""]["log_prob"]["mean"] > rows["no_adaptation", 0, ""]["log_prob"]["mean"] + 0.5
    matrices = {(m["condition"], m["score"]): m for m in content["matrices"]}
    assert [len(row) for row in matrices["self_edit", "log_prob"]["mean"]] == [4, 4]
    known = matrices["self_edit", "log_prob"]["mean"][1]
    assert sum(known) / 4 == pytest.approx(rows["self_edit", 0, ""]["log_prob"]["mean"])
    task = content["tasks"]["stone-10"]
    assert task["questions"]["colour"]["gold"] == ["black"]


def test_continual(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = outcome_of(tmp_path, settings(tiny_folder, tmp_path / "run", protocol=CONTINUAL))
    printed = capsys.readouterr().out
    assert "after own" in printed
    assert "log_prob of each task after each step" in printed
    matrices = {(m["condition"], m["score"]): m for m in content["matrices"]}
    matrix = matrices["self_edit", "log_prob"]
    assert matrix["n"] == [[8, 8], [8, 0], [8, 8]]
    assert matrix["mean"][1][1] is None
    assert content["protocol"]["num_sequences"] == 8


def test_continual_against_forgetting(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As YAML says it; what a gate decided is in the table, the file and the report. Only likelihood is measured."""
    where = "seal_lightning.evaluation"
    fixed = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 30}}
    measures = [
        {"class_path": f"{where}.Replay", "init_args": {"num_sequences": 2}},
        {"class_path": f"{where}.KLAnchor", "init_args": {"weight": 0.5, "texts": fixed}},
        {"class_path": f"{where}.LowRankMerge", "init_args": {"rank": 1}},
        {"class_path": f"{where}.ScaledMerge", "init_args": {"factor": 0.9}},
        {"class_path": f"{where}.MergeGate", "init_args": {"max_loss": 0.01, "factors": [0.5], "texts": fixed}},
    ]
    protocol = {
        "class_path": f"{where}.ContinualSelfEdits",
        "init_args": {"num_steps": 3, "num_sequences": 3, "examine_next": True, "against_forgetting": measures},
    }
    model = {"protocol": protocol, "test_measurements": ["likelihood"], "test_conditions": ["self_edit"]}
    content = outcome_of(tmp_path, settings(tiny_folder, tmp_path / "run", **model))
    printed = capsys.readouterr().out
    assert "new learning" in printed
    assert "refused of 9" in printed
    assert "accuracy of each task" not in printed
    told = content["protocol"]["settings"]["against_forgetting"]
    assert [one["class"] for one in told] == [m["class_path"].split(".")[-1] for m in measures]
    row = by_arm(content)["self_edit", 0, ""]
    assert row["num_merges"] == 9
    assert row["retention"]["new_learning"]["n"] == 3
    decisions = [r["merge"]["factor"] for r in content["results"] if r["taught"]]
    assert row["num_refused"] == decisions.count(0.0)
    assert row["num_scaled"] == decisions.count(0.5)
    assert row["accuracy"] is None
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "report.html").read_text()
    assert "with Replay + KLAnchor + LowRankMerge + ScaledMerge + MergeGate" in page
    assert "refused of 9" in page
    assert "transfer" in page


def test_test_refuses_no_measurements(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(tiny_folder, tmp_path / "run", test_measurements=[])))
    assert main(["test", "-c", str(path)]) == 1
    assert "model.test_measurements: an empty list is not allowed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [CONTINUAL, PRETRAINING], ids=["continual", "pretraining"])
def test_two_processes_find_what_one_finds(protocol: dict[str, Any], tiny_folder: Path, tmp_path: Path) -> None:
    alone = outcome_of(tmp_path, settings(tiny_folder, tmp_path / "one", protocol=protocol, test_edits=2))
    two = settings(tiny_folder, tmp_path / "two", protocol=protocol, test_edits=2)
    two["trainer"] |= {"devices": 2, "strategy": "ddp"}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(two))
    command = [sys.executable, "-m", "seal_lightning", "test", "-c", str(path)]
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    shared = json.loads((tmp_path / "two" / "results" / "test.json").read_text())
    assert shared["world_size"] == 2
    assert by_arm(shared).keys() == by_arm(alone).keys()
    for arm, row in by_arm(alone).items():
        other = by_arm(shared)[arm]
        assert other["log_prob"] == pytest.approx(row["log_prob"], abs=1e-8), arm
        assert other["num_steps"] == row["num_steps"]
    for one, other in zip(alone["matrices"], shared["matrices"], strict=True):
        assert one["n"] == other["n"]
        for ours, theirs in zip(one["mean"], other["mean"], strict=True):
            assert ours == pytest.approx(theirs, abs=1e-8)


def test_test_refuses_edit_file_that_lacks_tasks(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the task without any is in the last batch."""
    edits = tmp_path / "edits.jsonl"
    edits.write_text("".join(json.dumps({"task_id": f"stone-{n}", "text": "A stone."}) + "\n" for n in range(10, 14)))
    writer = {"class_path": "seal_lightning.domains.knowledge.EditFile", "init_args": {"path": str(edits)}}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(tiny_folder, tmp_path / "run", test_writers={"gpt": writer})))
    assert main(["test", "-c", str(path)]) == 1
    said = capsys.readouterr().err
    assert "has no edit of" in said
    assert "task id stone-14" in said
    assert "Its 4 records begin with" in said


@pytest.mark.slow
def test_other_writers_and_outside_adapters(tiny_folder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    assert fit(tmp_path, settings(tiny_folder, trained)) == 0
    edits = tmp_path / "edits.jsonl"
    rows = [{"task_id": f"stone-{n}", "edit_index": 0, "text": f"A stone, {n}."} for n in range(10, 15)]
    edits.write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = {"class_path": "seal_lightning.domains.knowledge.EditFile", "init_args": {"path": str(edits)}}
    more = {"test_writers": {"gpt": writer}, "test_adapters": {"round one": str(trained / "round_0" / "policy")}}
    content = outcome_of(tmp_path, settings(tiny_folder, tmp_path / "run", **more))
    found = by_arm(content)
    assert found["other_writer", 0, "gpt"]["num_tasks"] == 5
    assert found["other_writer", 0, "gpt"]["label"] == "edits by gpt"
    texts = [r["edits"][0]["text"] for r in content["results"] if r["name"] == "gpt"]
    assert texts == [row["text"] for row in rows]
    merged = by_arm(json.loads(_tested_again(trained, "--model.test_rounds", "[0,1]")))
    outside = found["outside_adapter", 0, "round one"]["log_prob"]["mean"]
    assert outside == pytest.approx(merged["no_adaptation", 1, ""]["log_prob"]["mean"], abs=1e-6)
    assert ("self_edit", 2, "") not in merged
    assert ("without_edit_matched", 1, "") in merged


def _tested_again(run_dir: Path, *more: str) -> str:
    assert main(["test", "--run", str(run_dir), *more]) == 0
    return (run_dir / "results" / "test.json").read_text()


@pytest.mark.slow
def test_student_learns_what_the_policy_writes(tiny_folder: Path, tmp_path: Path) -> None:
    """Exams are the student's, edits the policy's, and the policy is what is trained."""
    student = write_tiny_model(tmp_path / "student", seed=5)
    more = {"student": {"source": str(student), "dtype": "float64"}}
    assert fit(tmp_path, settings(tiny_folder, tmp_path / "pair", **more)) == 0
    assert fit(tmp_path, settings(tiny_folder, tmp_path / "alone")) == 0
    pair, alone = attempts(tmp_path / "pair", 0), attempts(tmp_path / "alone", 0)
    assert [a.edit.text for a in pair] == [a.edit.text for a in alone]
    assert all(a.before != b.before for a, b in zip(pair, alone, strict=True))
    content = json.loads(_tested_again(tmp_path / "pair"))
    as_student = outcome_of(tmp_path, settings(student, tmp_path / "student alone"))
    rows, of_student = by_arm(content), by_arm(as_student)
    for round_index in (0, 1, 2):  # the student is never trained for good
        assert rows["no_adaptation", round_index, ""]["log_prob"] == of_student["no_adaptation", 0, ""]["log_prob"]
    texts = {
        r: [x["edits"][0]["text"] for x in content["results"] if (x["condition"], x["round"]) == ("self_edit", r)]
        for r in (0, 2)
    }
    assert texts[0] != texts[2]
    assert content["model"] == {"pretrained": str(tiny_folder), "student": str(student)}


@pytest.mark.slow
def test_student_gets_merges_and_adapters(tiny_folder: Path, tmp_path: Path) -> None:
    """Policy and student of other sizes: a merge into the policy, or an adapter of it, would not fit."""
    student = write_tiny_model(tmp_path / "student", seed=5, hidden_size=48)
    more = {"student": {"source": str(student), "dtype": "float64"}, "protocol": CONTINUAL}
    of_student = tmp_path / "of student"
    assert fit(tmp_path, settings(student, of_student, rounds=1)) == 0
    more["test_adapters"] = {"mine": str(of_student / "round_0" / "policy")}
    content = outcome_of(tmp_path, settings(tiny_folder, tmp_path / "run", **more))
    assert ("outside_adapter", 0, "mine") in by_arm(content)
    (matrix,) = (m for m in content["matrices"] if (m["condition"], m["score"]) == ("self_edit", "log_prob"))
    before, first, last = (row[0] for row in matrix["mean"])
    assert len({before, first, last}) == 3


@pytest.mark.slow
def test_policy_is_restored_after_a_test(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert fit(tmp_path, settings(tiny_folder, run_dir)) == 0
    tested = run("test", ["--run", str(run_dir)])
    assert tested.model.loaded_policy.num_rounds == len(tested.model.loaded_policy.merged) == 2


def test_prompts_must_fit_writer_and_learner(tiny: LanguageModel, tmp_path: Path) -> None:
    short = Pretrained(source=str(write_tiny_model(tmp_path / "short", max_length=3))).load()
    tasks = ToyTasks(2).load()
    check_prompts_fit(ToyDomain(), tasks, tiny)
    with pytest.raises(DataError, match=r"its exam has [0-9]+ tokens, the context 3"):
        check_prompts_fit(ToyDomain(), tasks, tiny, student=short)
    with pytest.raises(DataError, match=r"its prompt for an edit has [0-9]+ tokens, the context 3"):
        check_prompts_fit(ToyDomain(), tasks, short, student=tiny)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"protocol": PRETRAINING | {"init_args": {"num_tasks": 6}}}, "6 is not allowed; data.test has 5 tasks"),
        ({"protocol": CONTINUAL | {"init_args": {"num_steps": 9}}}, "9 is not allowed; data.test has 5 tasks"),
        ({"test_rounds": [0, 3]}, "model.test_rounds: 3 is not allowed; the run has policies 0 to 0"),
        ({"test_rounds": [1], "test_adapters": {"mine": "a"}}, "is not allowed with mine, which is of the pretrained"),
        ({"test_rounds": [1], "test_conditions": ["in_context"]}, "is not allowed with in_context"),
        ({"test_rounds": []}, "model.test_rounds: an empty list is not allowed"),
        ({"test_adapters": {"mine": "/nowhere/adapter"}}, "adapter_config.json is missing or not a file"),
    ],
)
def test_test_refuses_invalid_settings(
    model: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(tiny_folder, tmp_path / "run", **model)))
    assert main(["test", "-c", str(path)]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "results").exists()
