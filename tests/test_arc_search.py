"""A run whose tiny model does solve: puzzles with one answer, a learning rate that learns it and one that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fakes import write_tiny_model
from test_arc_end_to_end import settings

from seal_lightning.cli.main import main
from seal_lightning.evaluation.steps import inner_seed
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

LEARNS, LEARNS_NOT = "0.02", "1e-07"
NAMES = {"train": ("two", "three", "four"), "test": ("five", "six")}


def write_tasks(folder: Path, **inputs: int) -> None:
    """Puzzles whose every output is one cell of colour 0, which no permutation of colours changes."""
    folder.mkdir(parents=True)
    for name, colour in inputs.items():
        pairs = [{"input": [[colour, i]], "output": [[0]]} for i in range(4)]
        (folder / f"{name}.json").write_text(json.dumps({"train": pairs[:3], "test": pairs[3:]}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_tasks(folder / "train", two=2, three=3, four=4)
    write_tasks(folder / "test", five=5, six=6)
    tiny = write_tiny_model(folder / "tiny", max_length=4096)
    chosen = settings(
        tiny,
        folder / "run",
        schema="paper",
        learning_rates=[float(LEARNS), float(LEARNS_NOT)],
        epochs=[12, 13],
        adapter={"rank": 8, "alpha": 16},
        max_puzzles=8,
        without_edit={"augmentations": [], "loss": "last_output", "learning_rate": 1e-7, "num_epochs": 1},
    )
    chosen["trainer"]["callbacks"] = [
        {"class_path": "seal_lightning.callbacks.AboveThreshold", "init_args": {"threshold": 0.5}}
    ]
    chosen["model"] |= {"num_edits": 8, "sampling": {"temperature": 4.0}}  # at 1 this policy never leaves one strategy
    chosen["model"] |= {"reward": {"class_path": "seal_lightning.scoring.rewards.SolvedReward"}}
    for name in ("train", "test"):
        source = {"class_path": "seal_lightning.domains.arc.ArcFolder", "init_args": {"path": str(folder / name)}}
        chosen["data"][name] = source
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(chosen))
    assert main(["fit", "-c", str(path)]) == 0
    return folder / "run"


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "run")
    return folder / "run"


def test_solving_edits_are_kept_and_get_likelier(run: Path) -> None:
    attempts = AttemptStore(RunDir(run).round(0)).all()
    solved = {a.attempt_id for a in attempts if a.reward == 1.0}
    assert 0 < len(solved) < len(attempts) == 24
    assert all(a.edit.directives["learning_rate"] == LEARNS for a in attempts if a.reward == 1.0)
    rows = [json.loads(line) for line in (run / "round_0" / "accepted.jsonl").read_text().splitlines()]
    assert {f"r0-{row['task_id']}-e{row['edit_index']}-s0" for row in rows} == solved


def test_the_oracle_solves_and_is_held_against_the_policies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["strategy=train_using_output_tokens", "num_train_epochs=12", "use_size_augmentations=false"]
    command = ["search", str(run), "--only", *only, "use_chain_augmentations=false", "use_repeat_augmentations=false"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Oracle (the best of those tried, one seed each): 1.000 ± 0.000 of 2 tasks solved" in printed
    found = json.loads((run / "results" / "search_test.json").read_text())
    for task in NAMES["test"]:
        tried = found[task]["configurations"]
        assert len(tried) == 4
        assert {c["choices"]["learning_rate"] for c in tried if c["solved"]} == {LEARNS}
        before, after = found[task]["probability_of_solving_among_tried_by_round"]
        assert 0 < before < after < 1
        assert all(0 < mass < 1 for mass in found[task]["probability_tried_by_round"])
    for attempt in AttemptStore(run / "search").all():  # as `seal test` would have trained it
        assert attempt.seed == inner_seed(1, attempt.task_id)


def test_interrupted_search_resumes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(run, tmp_path)
    shutil.rmtree(run / "search", ignore_errors=True)
    command = ["search", str(run), "--limit", "4", "--at_once", "2"]
    add, num_added = AttemptStore.add, 0

    def add_five(store: AttemptStore, attempt):
        nonlocal num_added
        num_added += 1
        if num_added > 5:
            raise KeyboardInterrupt
        return add(store, attempt)

    with monkeypatch.context() as patch:
        patch.setattr(AttemptStore, "add", add_five)
        assert main(command) == 130
    assert "seal search: interrupted. What was stored is kept" in capsys.readouterr().err
    first = AttemptStore(run / "search").all()
    assert len(first) == 5
    assert main(command) == 0
    assert AttemptStore(run / "search").all()[:5] == first
    assert len(AttemptStore(run / "search").all()) == 8


def test_search_refuses_other_settings(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(run, tmp_path)
    shutil.rmtree(run / "search", ignore_errors=True)
    assert main(["search", str(run), "--limit", "2"]) == 0
    chosen = yaml.safe_load((run / "config.yaml").read_text())
    chosen["model"]["domain"]["init_args"]["epochs"] = [1, 2]
    (run / "config.yaml").write_text(yaml.safe_dump(chosen))
    capsys.readouterr()
    assert main(["search", str(run), "--limit", "2"]) == 1
    assert "was made with other menus or another seed" in capsys.readouterr().err


def test_a_run_that_kept_nothing_can_be_searched(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "search", ignore_errors=True)
    assert main(["search", str(run), "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert "before training" in printed
    assert "after round" not in printed


def test_a_task_without_a_known_solution_is_not_searched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(run, tmp_path)
    shutil.rmtree(run / "search", ignore_errors=True)
    puzzle = {"train": [{"input": [[1]], "output": [[2]]}] * 2, "test": [{"input": [[1]]}]}
    (tmp_path / "challenges.json").write_text(json.dumps({"hidden": puzzle}))
    chosen = yaml.safe_load((run / "config.yaml").read_text())
    source = {"challenges": str(tmp_path / "challenges.json")}
    chosen["data"]["test"] = {"class_path": "seal_lightning.domains.arc.KaggleArc", "init_args": source}
    (run / "config.yaml").write_text(yaml.safe_dump(chosen))
    assert main(["search", str(run), "--limit", "2"]) == 1
    assert "the solution of task hidden is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("only", [["epochs"], ["a="], ["learning_rate=0.02", "learning_rate=1e-07"]])
def test_only_names_each_choice_once(run: Path, only: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(run), "--only", *only]) == 1
    assert "CHOICE=OPTION" in capsys.readouterr().err


def test_task_over_the_context_fails_at_the_start(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = [{"input": [[1] * 30] * 30, "output": [[0]]}] * 5
    write_tasks(tmp_path / "tasks", small=1)
    (tmp_path / "tasks" / "large.json").write_text(json.dumps({"train": big, "test": big[:1]}))
    chosen = yaml.safe_load((run / "config.yaml").read_text()) | {"run_dir": str(tmp_path / "run")}
    chosen["data"]["test"]["init_args"]["path"] = str(tmp_path / "tasks")
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(chosen))
    assert main(["fit", "-c", str(path)]) == 1
    printed = capsys.readouterr().err
    assert "1 of 2 tasks do not fit the model's context: large: its exam has" in printed
    assert "do not fit the model's context" in printed
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_changed_menu_does_not_stop_a_resumed_m_step(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report on the choices leaves out what the run cannot choose any more."""
    run = copy_of(run, tmp_path)
    for checkpoint in (run / "checkpoints").glob("*m_step*"):
        checkpoint.unlink()
    shutil.rmtree(run / "round_0" / "policy")
    assert main(["fit", "--resume", str(run), "--model.domain.init_args.epochs", "[12,7]"]) == 0
    assert (run / "round_0" / "policy").is_dir()
    capsys.readouterr()
