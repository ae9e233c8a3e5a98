"""The Python entry points: a run built without a configuration file is a run like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fakes import ToyDomain, ToyTasks

import seal_lightning
from seal_lightning import (
    AdapterSpec,
    OptimizerSpec,
    Pretrained,
    SamplingSpec,
    SealDataModule,
    SealModule,
    seal_trainer,
)
from seal_lightning.cli.main import main
from seal_lightning.cli.python_config import plain
from seal_lightning.core import Attempt, Candidate
from seal_lightning.core.configurable import Configurable, constructor_arguments
from seal_lightning.core.errors import ConfigError, RunError

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}


def module(tiny_folder: Path, **more: object) -> SealModule:
    return SealModule(
        domain=ToyDomain(optimizer=OptimizerSpec(num_epochs=1)),
        pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
        sampling=SamplingSpec(max_new_tokens=4),
        policy_adapter=AdapterSpec(rank=2, alpha=4, target_modules="all-linear"),
        reinforce=OptimizerSpec(num_epochs=1, batch_size=2),
        rounds=1,
        num_edits=2,
        num_repeats=1,
        **more,
    )


def data() -> SealDataModule:
    return SealDataModule(train=ToyTasks(2), test=ToyTasks(2, offset=9), tasks_per_batch=2)


def gold_log_prob(attempt: Attempt) -> float | None:
    return attempt.after.log_prob


def first_of_each(ranked: list[Candidate]) -> list[Candidate]:
    return list({candidate.task_id: candidate for candidate in reversed(ranked)}.values())


@pytest.mark.slow
def test_python_run_is_read_by_the_commands(tiny_folder: Path, tmp_path: Path) -> None:
    """Fit and test in Python, then `seal test --run` and `seal report` on what is left."""
    trainer = seal_trainer(tmp_path / "run", rounds=1, reward_filter=first_of_each, **QUIET)
    model = module(tiny_folder, reward=gold_log_prob)
    trainer.fit(model, data())
    metrics = trainer.test(model, data())[0]
    assert metrics["test/no_adaptation_round0/log_prob"] < 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["trainer"]["callbacks"] == [
        {
            "class_path": "seal_lightning.callbacks.FunctionFilter",
            "init_args": {"function": "test_seal_trainer.first_of_each"},
        }
    ]
    assert settings["model"]["domain"]["class_path"] == "fakes.ToyDomain"
    assert settings["model"]["reward"] == "test_seal_trainer.gold_log_prob"
    assert main(["test", "--run", str(tmp_path / "run")]) == 0
    of_python, of_command = (
        json.loads((tmp_path / "run/results" / name).read_text())["table"] for name in ("test.json", "test-2.json")
    )
    assert of_python == of_command
    table = seal_lightning.load_attempts(tmp_path / "run")
    assert len(table) == 4
    assert table["reward"].notna().all()
    assert main(["report", str(tmp_path / "run")]) == 0


def test_trainer_refuses_a_used_directory(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="holds a run already"):
        seal_trainer(tmp_path, rounds=1, **QUIET).fit(module(tiny_folder), data())


@pytest.mark.parametrize("name", ["max_epochs", "inference_mode", "reload_dataloaders_every_n_epochs"])
def test_trainer_refuses_what_the_loop_sets(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} is set by the loop"):
        seal_trainer(tmp_path, **{name: 1})


def test_unrecorded_objects_are_named_in_a_warning() -> None:
    class Foreign:
        def __init__(self, size: int) -> None:
            self.size = size

    with pytest.warns(UserWarning, match=r"model\.x: Foreign does not keep"):
        assert plain(Foreign(3), "model.x")["init_args"] == {}


def test_arguments_of_subclasses_are_recorded() -> None:
    class Base(Configurable):
        def __init__(self, a: int, **more: int) -> None: ...

    class Derived(Base):
        def __init__(self, b: int, *, c: int = 0, **more: int) -> None:
            super().__init__(a=b + 1, **more)

    assert constructor_arguments(Derived(1, c=2, d=3)) == {"b": 1, "c": 2, "d": 3}


def test_public_names_are_importable() -> None:
    for name in seal_lightning.__all__:
        assert getattr(seal_lightning, name) is not None
    assert set(seal_lightning.__all__) <= set(dir(seal_lightning))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = seal_lightning.no_such_name


def test_package_import_loads_no_torch() -> None:
    code = "import seal_lightning, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
