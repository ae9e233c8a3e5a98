"""Update directives in whole runs of a tiny model: chosen, kept, reinforced, searched for and held against fixed ones."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fakes import write_tiny_model

from seal_lightning.cli.main import main
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

LEARNS, LEARNS_NOT = "0.02", "1e-07"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directed")
    tiny = write_tiny_model(folder / "tiny", max_length=4096)
    knowledge = "seal_lightning.domains.knowledge"
    directed = {
        "formats": {"notes": {"class_path": f"{knowledge}.Implications"}},
        "learning_rates": [float(LEARNS), float(LEARNS_NOT)],
        "num_epochs": [2, 3],
        "passage_weights": [1, 2],
        "layers": {"top": [1], "all": [0, 1]},
    }
    settings = {
        "run_dir": str(folder / "run"),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 1}}],
        },
        "model": {
            "pretrained": {"source": str(tiny), "dtype": "float64"},
            "domain": {
                "class_path": f"{knowledge}.KnowledgeDomain",
                "init_args": {
                    "format": {"class_path": f"{knowledge}.DirectedEdits", "init_args": directed},
                    "adapter": {"rank": 4, "alpha": 8, "target_modules": "all-linear"},
                    "optimizer": {"learning_rate": 1e-3, "num_epochs": 1, "batch_size": 64, "schedule": "constant"},
                },
            },
            "sampling": {"temperature": 1.0, "max_new_tokens": 6, "choice_temperature": 3.0},
            "policy_adapter": {"rank": 8, "alpha": 16, "target_modules": "all-linear"},
            "reinforce": {"learning_rate": 0.01, "num_epochs": 6, "batch_size": 4},
            "rounds": 1,
            "num_edits": 6,
            "num_repeats": 1,
            "test_measurements": ["likelihood"],
        },
        "data": {
            name: {"class_path": f"{knowledge}.BundledPassages", "init_args": {"split": name, "limit": limit}}
            for name, limit in (("train", 4), ("test", 2))
        },
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["fit", "-c", str(path)]) == 0
    return folder / "run"


def test_fit_keeps_directives_that_learn(run: Path) -> None:
    edits = {a.attempt_id: a.edit for a in AttemptStore(RunDir(run).round(0)).all()}
    assert len(edits) == 24
    rows = [json.loads(line) for line in (run / "round_0" / "accepted.jsonl").read_text().splitlines()]
    kept = Counter(edits[f"r0-{row['task_id']}-e{row['edit_index']}-s0"].directives["learning_rate"] for row in rows)
    tried = Counter(edit.directives["learning_rate"] for edit in edits.values())
    assert min(tried.values()) > 0
    assert kept[LEARNS] == len(rows) == 4


def test_attempts_train_as_their_edits_say(run: Path) -> None:
    for attempt in AttemptStore(RunDir(run).round(0)).all():
        said, plan = attempt.edit.directives, attempt.plan
        if attempt.plan is None:
            assert attempt.failure is not None
            continue
        assert plan is not None
        assert plan.learning_rate == float(said["learning_rate"])
        assert plan.num_steps == int(said["num_epochs"])
        passages = int(said["passage_weight"])
        assert plan.num_sequences == passages if said["format"] == "none" else plan.num_sequences > passages
        assert attempt.edit.chosen is not None
        assert len(attempt.edit.chosen) == len(attempt.edit.token_ids)
        assert not all(attempt.edit.chosen)


def test_search_finds_the_setting_the_policy_moved_to(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["passage_weight=1", "num_epochs=3", "layers=all"]
    assert main(["search", str(run), "--tasks", "train", "--only", *only]) == 0
    printed = capsys.readouterr().out
    assert "One setting for all tasks: mean reward over 4 tasks, the best of 4" in printed
    assert "Oracle" not in printed  # answers were not asked for
    settings = json.loads((run / "results" / "search_train_settings.json").read_text())
    means = [setting["mean_reward"] for setting in settings]
    assert means == sorted(means, reverse=True)
    assert [setting["choices"]["learning_rate"] for setting in settings] == [LEARNS] * 2 + [LEARNS_NOT] * 2
    assert settings[0]["minus_best"] is None
    assert all(setting["minus_best"] <= 0 for setting in settings[1:])
    tasks = json.loads((run / "results" / "search_train.json").read_text())
    before, after = (
        sum(
            math.exp(c["policy_log_prob_by_round"][r])
            for task in tasks.values()
            for c in task["configurations"]
            if c["choices"]["learning_rate"] == LEARNS
        )
        for r in (0, 1)
    )
    assert after > before


def test_test_compares_with_a_fixed_setting(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = {"format": "none", "learning_rate": LEARNS, "num_epochs": "3", "passage_weight": "1", "layers": "all"}
    writer = {"class_path": "seal_lightning.generation.FixedChoices", "init_args": {"choices": fixed}}
    overlay = tmp_path / "fixed.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"test_writers": {"best fixed setting": writer}}}))
    assert main(["test", "--run", str(run), "-c", str(overlay)]) == 0
    assert "edits by best fixed setting" in capsys.readouterr().out
    fixed["num_epochs"] = "7"
    writer["init_args"]["choices"] = fixed
    overlay.write_text(yaml.safe_dump({"model": {"test_writers": {"best fixed setting": writer}}}))
    assert main(["test", "--run", str(run), "-c", str(overlay)]) == 1
    assert "FixedChoices: num_epochs is '7'; allowed: 2, 3" in capsys.readouterr().err


def test_fit_refuses_missing_layers_before_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["run_dir"] = str(tmp_path / "run")
    settings["model"]["domain"]["init_args"]["format"]["init_args"]["layers"] = {"top": [1], "more": [7]}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["fit", "-c", str(path)]) == 1
    assert "adapter.layers: [7] have no such module; the model has layers 0 to 1" in capsys.readouterr().err
    assert not AttemptStore(RunDir(tmp_path / "run").round(0)).all()
