"""`seal sweep` on a tiny model: what is tried, how settings are compared, and what is written of the best one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import ToyDomain, ToyTask

from seal_lightning.cli.commands.loading import load_settings, merged_settings
from seal_lightning.cli.commands.sweep import given_edits, main
from seal_lightning.cli.commands.sweep_report import configurable
from seal_lightning.cli.main import main as seal
from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    Attempt,
    OptimizerSpec,
    SelfEdit,
    Task,
)
from seal_lightning.core.errors import ConfigError, RunError, SealError
from seal_lightning.core.interfaces import Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.grid import GridSetting
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir

GRID = ["--grid", "learning_rate=1e-7,0.05", "rank=2,4"]


class StoneWriter(Writer):
    """Writes the fact twice, and a blank edit about stone 1."""

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> list[SelfEdit]:
        texts = {task.task_id: "" if task.task_id == "stone-1" else f"{task.task_id}\n{task.task_id}" for task in tasks}
        return [
            SelfEdit(task_id=task.task_id, edit_index=index, text=texts[task.task_id])
            for task in tasks
            for index in range(num_edits)
        ]


class StubbornDomain(ToyDomain):
    """Its edits decide the learning rate, as ARC's do."""

    def plan_without_edit(self, task: ToyTask) -> AdaptationPlan:
        plan = super().plan_without_edit(task)
        return AdaptationPlan(sequences=plan.sequences, adapter=self.adapter, optimizer=OptimizerSpec())


class ClosedDomain(ToyDomain):
    """Takes no settings."""

    def __init__(self) -> None:
        super().__init__()


def settings(tiny_folder: Path) -> dict[str, Any]:
    return {
        "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False},
        "model": {
            "pretrained": {"source": str(tiny_folder), "dtype": "float64"},
            "domain": {
                "class_path": "fakes.ToyDomain",
                "init_args": {
                    "adapter": {"rank": 8, "alpha": 8, "target_modules": "all-linear"},
                    "optimizer": {"learning_rate": 0.02, "num_epochs": 3},
                },
            },
            "sampling": {"max_new_tokens": 6},
            "rounds": 1,
            "num_edits": 2,
            "num_repeats": 1,
            "test_writers": {"stones": {"class_path": "test_sweep.StoneWriter"}},
        },
        "data": {
            "train": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 3}},
            "test": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 10}},
        },
    }


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(tiny_folder)))
    return path


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("sweep")
    chosen = settings(tiny_folder) | {"run_dir": str(folder / "run")}
    chosen["trainer"]["callbacks"] = [{"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 1}}]
    (folder / "settings.yaml").write_text(yaml.safe_dump(chosen))
    assert seal(["fit", "-c", str(folder / "settings.yaml")]) == 0
    return RunDir(folder / "run")


@pytest.mark.slow
def test_sweep_of_configurations(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-c", str(config), "--out", str(tmp_path / "out"), "--edits", "passage", "--num_tasks", "2"]
    assert main([*command, *GRID]) == 0
    printed = capsys.readouterr().out
    assert "Best: rank=" in printed
    assert "Of 2 tasks the standard errors are rough themselves" in printed
    content = json.loads((tmp_path / "out" / "results" / "sweep.json").read_text())
    assert {row["setting"]["learning_rate"] for row in content["settings"][:2]} == {0.05}
    assert content["best"] == content["settings"][0]["name"]
    attempts = AttemptStore(tmp_path / "out" / "sweep").all()
    assert len(attempts) == 2 * 2 * 2
    assert {a.seed for a in attempts} == {derive_seed(1, "sweep", f"stone-{n}", 0, 0) for n in range(2)}
    row = next(row for row in content["settings"] if row["setting"] == {"rank": 4, "learning_rate": 0.05})
    assert row["by_task"] == pytest.approx(alone(config, rank=4, learning_rate=0.05))

    best = str(tmp_path / "out" / "results" / "sweep_best.yaml")
    module, _ = load_settings(merged_settings([config, best]), "")
    plan = module.domain.plan_without_edit(ToyTask(task_id="t", key="k", value="v"))
    chosen = content["settings"][0]["setting"]
    assert plan.adapter == AdapterSpec(rank=chosen["rank"], alpha=8, target_modules="all-linear")
    assert plan.optimizer == OptimizerSpec(learning_rate=0.05, num_epochs=3, batch_size=2)
    with pytest.raises(SystemExit):
        seal(["fit", "-c", str(config), "-c", best, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"] == merged_settings([config, best])["model"]

    goes_on(command, tmp_path, attempts)
    other = tmp_path / "other.yaml"
    other.write_text("model: {domain: {init_args: {optimizer: {num_epochs: 5}}}}")
    with pytest.raises(RunError, match="made with another configuration of the model"):
        main([*command, *GRID, "-c", str(other)])


def alone(config: Path, **setting: Any) -> dict[str, float]:
    """The log-probability of the answers after each passage was learned alone, by the seams themselves."""
    from dataclasses import replace

    from seal_lightning.core import Adapted, ScoreRequest

    module, data = load_settings(merged_settings([config]), "")
    module.configure_model()
    data.setup("fit")
    found = {}
    for task in data.tasks("train")[:2]:
        plan = module.domain.plan_without_edit(task)
        adapter = replace(plan.adapter, rank=setting["rank"])
        optimizer = replace(plan.optimizer, learning_rate=setting["learning_rate"])
        plan = replace(plan, adapter=adapter, optimizer=optimizer)
        seed = derive_seed(module.seed, "sweep", task.task_id, 0, 0)
        (outcome,) = module.inner_loop.adapt([plan], [seed])
        assert isinstance(outcome, Adapted)
        (prompt,) = module.domain.exam(task)
        request = ScoreRequest(prompt=prompt.prompt, target=prompt.target, adapter=outcome.adapter)
        (log_probs,) = module.engine.score([request])
        found[task.task_id] = sum(log_probs) / len(log_probs)
    return found


def goes_on(command: list[str], tmp_path: Path, first: list[Attempt]) -> None:
    """A larger grid tries what is new only, however the grid is ordered; results are kept beside the older ones."""
    assert main([*command, "--grid", "rank=2,4", "learning_rate=1e-7,0.05,1e30", "--at_once", "3"]) == 0
    attempts = AttemptStore(tmp_path / "out" / "sweep").all()
    assert attempts[: len(first)] == first
    assert len(attempts) == len(first) + 2 * 2
    content = json.loads((tmp_path / "out" / "results" / "sweep-2.json").read_text())
    failed = {row["setting"]["learning_rate"]: row["num_failed"] for row in content["settings"]}
    assert failed == {1e-7: 0, 0.05: 0, 1e30: 2}
    worst = next(row for row in content["settings"] if row["num_failed"])
    assert worst["by_task"] == content["unadapted_by_task"]


def test_sweep_of_a_run_takes_stored_edits(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(run.path), "--grid", "num_epochs=1,2", "--score", "reward", "--num_edits", "2", "--num_seeds", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "seal fit -c" in printed
    tried = {(a.task_id, a.edit.edit_index): a.edit.text for a in AttemptStore(run.round(0)).all()}
    swept = AttemptStore(run.sweep).all()
    usable = {key: text for key, text in tried.items() if text.strip()}
    assert {(a.task_id, a.edit.edit_index): a.edit.text for a in swept} == usable
    assert len(swept) == len(usable) * 2 * 2
    assert not any(a.edit.token_ids for a in swept)
    steps = {a.plan.num_steps for a in swept if a.plan is not None and "num_epochs=2" in a.attempt_id}
    assert steps == {2 * s for s in {a.plan.num_steps for a in swept if a.plan and "num_epochs=1" in a.attempt_id}}
    with pytest.raises(RunError, match=r"no edits of these tasks, only of those of the E-step"):
        main([*command, "--tasks", "test"])


def test_given_edits_of_policy_and_writers(config: Path) -> None:
    module, data = load_settings(merged_settings([config]), "")
    module.configure_model()
    data.setup("fit")
    tasks = data.tasks("train")
    given, skipped = given_edits("writer:stones", 2, None, module, tasks)
    assert [(one.task.task_id, one.edit.edit_index) for one in given] == [
        (f"stone-{n}", index) for n in (0, 2) for index in (0, 1)
    ]
    assert skipped == [("stone-1", f"edit {index} is malformed: empty: ''") for index in (0, 1)]
    with pytest.raises(ConfigError, match=r"model.test_writers has 'stones'"):
        given_edits("writer:none", 2, None, module, tasks)
    with pytest.raises(RunError, match="none of 1 tasks has an edit to train on"):
        given_edits("writer:stones", 1, None, module, tasks[1:2])
    own, _ = given_edits("own", 1, None, module, tasks)
    again, _ = given_edits("own", 1, None, module, tasks)
    assert [one.edit.text for one in own] == [one.edit.text for one in again]


@pytest.mark.parametrize(
    ("domain", "kept", "said"),
    [
        ("StubbornDomain", {"rank": 4}, "learning_rate: the edit or the domain decides"),
        ("ClosedDomain", {}, "adapter"),
    ],
)
def test_configurable_reports_what_it_cannot_set(domain: str, kept: dict[str, Any], said: str, config: Path) -> None:
    chosen = yaml.safe_load(config.read_text())
    chosen["model"]["domain"] = {"class_path": f"test_sweep.{domain}"}
    config.write_text(yaml.safe_dump(chosen))
    setting = GridSetting(adapter={"rank": 4}, optimizer={"learning_rate": 0.03})
    task = ToyTask(task_id="t", key="k", value="v")
    edit = SelfEdit(task_id="t", edit_index=0, text="")
    found, why_not = configurable(setting, [config], [(task, edit)], without_edit=True)
    assert found.values == kept
    assert why_not is not None
    assert said in why_not


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "-c", "a.yaml"], "either a run directory or configurations"),
        ([], "either a run directory or configurations"),
        (["-c", "a.yaml"], "--out is missing"),
        (["-c", "a.yaml", "--out", "o", "--edits", "stored"], "--edits stored needs a run"),
        (["-c", "a.yaml", "--out", "o", "--policy", "newest"], "--policy newest needs a run"),
        (["-c", "a.yaml", "--out", "o", "--edits", "edits.json"], "it must be stored, own, passage or writer:NAME"),
        (["-c", "a.yaml", "--out", "o", "--edits", "writer"], "it must be stored"),
        (["-c", "a.yaml", "--out", "../o"], "--out"),
        (["-c", "no-such.yaml", "--out", "o"], "no-such.yaml"),
        (["no-such-run"], "no-such-run"),
    ],
)
def test_sweep_refuses_before_loading(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SealError, match=said):
        main([*arguments, *GRID])
    assert not list(tmp_path.iterdir())
