"""Sharded runs go on, with as many ranks or others; are tested; end in good order; and refuse what they must."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import end_all, ranks, wait_until
from test_end_to_end import attempts, config, final_loras, fit
from test_sharded_fit import STRATEGY, alone, assert_same, fit_on_two, seen, settings_of  # noqa: F401
from transformers import AutoModelForCausalLM

from seal_lightning.cli.main import main
from seal_lightning.storage.checkpoints import complete_checkpoints

SAVING = {"class_path": "seal_lightning.callbacks.PhaseCheckpoint", "init_args": {"every_n_steps": 1}}
TWO = ("--trainer.devices", "2", "--trainer.strategy.class_path", STRATEGY)
ONE = ("--trainer.devices", "1", "--trainer.strategy", "auto")


def saving(settings: dict[str, Any]) -> dict[str, Any]:
    settings["trainer"]["callbacks"].append(SAVING)
    return settings


def on_two(args: list[str], folder: Path, expected: int = 0, **environment: str) -> str:
    children = ranks(args, folder, environments=dict.fromkeys((0, 1), environment))
    try:
        codes = [child.wait(100) for child in children]
    finally:
        end_all(children)
    assert codes == [expected] * 2, "\n".join(child.printed()[-3000:] for child in children)
    return children[0].printed()


def assert_same_end(run_dir: Path, alone: Path) -> None:  # noqa: F811
    for mine, theirs in zip(final_loras(run_dir), final_loras(alone), strict=True):
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("where", ["batch_end:1:3", "attempt:2:2"])
@pytest.mark.slow
def test_goes_on_sharded(where: str, alone: Path, tiny_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """In the M-step; in the next E-step, after a merge into shards that must be made again."""
    run_dir = tmp_path / "run"
    settings = saving(settings_of(tiny_folder, run_dir, {"whole_replicas": "always"}))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "a", 1, SEAL_TEST_INTERRUPT=where)
    never = ("--trainer.strategy.init_args.whole_replicas", "never")
    on_two(["fit", "--resume", str(run_dir), *never], tmp_path / "b")  # the other way of working
    assert_same_end(run_dir, alone)


@pytest.mark.slow
def test_goes_on_with_another_number_of_ranks(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    run_dir = tmp_path / "run"
    settings = saving(settings_of(tiny_folder, run_dir, {"whole_replicas": "never"}))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    args = ["fit", "-c", str(tmp_path / "settings.yaml")]
    on_two(args, tmp_path / "two", 1, SEAL_TEST_INTERRUPT="batch_end:1:3")
    (alone_again,) = ranks(
        ["fit", "--resume", str(run_dir), *ONE],
        tmp_path / "one",
        1,
        environments={0: {"SEAL_TEST_INTERRUPT": "batch_end:3:2"}},
    )
    assert alone_again.wait(100) == 1
    on_two(["fit", "--resume", str(run_dir), *TWO], tmp_path / "again")
    assert_same_end(run_dir, alone)
    assert_same_weights(run_dir, alone)


def assert_same_weights(run_dir: Path, alone: Path) -> None:  # noqa: F811
    """As exported: standard folders that transformers loads."""
    for round_index in (0, 1):
        mine, theirs = (
            AutoModelForCausalLM.from_pretrained(of / f"round_{round_index}" / "policy", dtype=torch.float64)
            for of in (run_dir, alone)
        )
        for name, weight in mine.state_dict().items():
            torch.testing.assert_close(weight, theirs.state_dict()[name], rtol=0, atol=1e-9)
    assert not torch.equal(mine.model.layers[0].self_attn.q_proj.weight, torch.zeros(1))


@pytest.mark.slow
@pytest.mark.parametrize("whole_replicas", ["always", "never"])
def test_every_round_is_tested(whole_replicas: str, alone: Path, tmp_path: Path) -> None:  # noqa: F811
    """Every round's policy, on shards that are merged into anew."""
    assert main(["test", "--run", str(alone), "--run_dir", str(tmp_path / "one")]) == 0
    more = [*TWO, "--trainer.strategy.init_args.whole_replicas", whole_replicas, "--run_dir", str(tmp_path / "two")]
    on_two(["test", "--run", str(alone), *more], tmp_path / "logs")
    found, expected = (json.loads((tmp_path / n / "results" / "test.json").read_text()) for n in ("two", "one"))
    assert len(found["table"]) == len(expected["table"]) > 4
    for mine, theirs in zip(found["table"], expected["table"], strict=True):
        assert mine["condition"] == theirs["condition"]
        assert mine["num_tasks"] == theirs["num_tasks"]
        assert mine["log_prob"]["mean"] == pytest.approx(theirs["log_prob"]["mean"], abs=1e-9)


@pytest.mark.slow
def test_predictions(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config(tiny_folder, tmp_path / name)))
        if name == "one":
            assert main(["predict", "-c", str(path)]) == 0
        else:
            never = ("--trainer.strategy.init_args.whole_replicas", "never")
            on_two(["predict", "-c", str(path), *TWO, *never], tmp_path / "logs")
    mine, theirs = ((tmp_path / name / "results" / "self_edits.jsonl").read_text() for name in ("two", "one"))
    assert mine == theirs


@pytest.mark.slow
def test_merging_protocols(tiny_folder: Path, tmp_path: Path) -> None:
    """On whole replicas each rank merges into its own copy and takes it back; on shards they are refused."""
    protocol = {"class_path": "seal_lightning.evaluation.ContinualSelfEdits", "init_args": {"num_steps": 2}}
    results = {}
    for name in ("one", "two"):
        settings = config(tiny_folder, tmp_path / name, protocol=protocol)
        settings["data"]["test"]["init_args"]["num_tasks"] = 5
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        args = ["test", "-c", str(tmp_path / f"{name}.yaml")]
        if name == "one":
            assert main(args) == 0
        else:
            on_two([*args, *TWO, "--trainer.strategy.init_args.whole_replicas", "always"], tmp_path / "logs")
        results[name] = json.loads((tmp_path / name / "results" / "test.json").read_text())
    for mine, theirs in zip(results["two"]["matrices"], results["one"]["matrices"], strict=True):
        assert mine["condition"] == theirs["condition"]
        for a, b in zip(mine["mean"], theirs["mean"], strict=True):
            assert a == pytest.approx(b, abs=1e-9, nan_ok=True)
    refused = on_two([*args, *TWO, "--trainer.strategy.init_args.whole_replicas", "never"], tmp_path / "refused", 1)
    assert "ContinualSelfEdits merges each step into the weights" in refused


@pytest.mark.parametrize("told", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_while_one_rank_computes(told: int, tiny_folder: Path, tmp_path: Path) -> None:
    """Also to the rank that only hands over weights: both end, a checkpoint is written, and the run goes on."""
    run_dir = tmp_path / "run"
    settings = settings_of(tiny_folder, run_dir, {"whole_replicas": "never"}, candidates_per_call=1, rounds=1)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    children = ranks(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "logs")
    try:
        wait_until(lambda: len(attempts(run_dir, 0)) >= 3, 60)
        children[told].send(signal.SIGTERM)
        codes = [child.wait(30) for child in children]
    finally:
        end_all(children)
    assert codes == [128 + signal.SIGTERM] * 2, "\n".join(child.printed()[-2000:] for child in children)
    assert [p.stem for p in complete_checkpoints(run_dir / "checkpoints")] == ["round0-e_step-stopped"]
    assert len(attempts(run_dir, 0)) < 15
    on_two(["fit", "--resume", str(run_dir)], tmp_path / "again")
    assert len(attempts(run_dir, 0)) == 15


@pytest.mark.slow
def test_the_rank_that_computes_fails(tiny_folder: Path, tmp_path: Path) -> None:
    """The one that hands it weights ends too, and says what came first."""
    settings = settings_of(tiny_folder, tmp_path / "run", {"whole_replicas": "never"})
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path, 1, SEAL_TEST_INTERRUPT="attempt:0:2")
    assert "rank 0 failed first: 'interrupted by the test'" in (tmp_path / "rank1.log").read_text()


@pytest.mark.slow
def test_refused(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("fsdp", "fsdp_cpu_offload", "lightning.pytorch.strategies.ModelParallelStrategy"):
        settings = config(tiny_folder, tmp_path / "run")
        settings["trainer"]["strategy"] = name
        assert fit(tmp_path, settings) == 1
        assert "configs/trainer/fsdp.yaml" in capfd.readouterr().err
    settings = settings_of(tiny_folder, tmp_path / "run", {"ranks_per_copy": 3})
    settings["trainer"]["devices"] = 2
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    said = on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "a", 1)
    assert "ranks_per_copy: 3 is not allowed with 2 ranks" in said
    full = {"class_path": "seal_lightning.inner_loop.FullFinetuning"}
    settings = settings_of(tiny_folder, tmp_path / "run", {}, inner_loop=full)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    said = on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "b", 1)
    assert "FullFinetuning is not allowed with a sharded policy" in said
