"""Sharded runs: resumes, tests, predictions, stops, a vLLM server as writer, and settings that are refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import end_all, ranks, wait_until
from completions_server import CompletionsServer, serving
from test_end_to_end import attempts, config, final_loras, fit
from test_sharded_fit import STRATEGY, alone, assert_same, fit_on_two, seen, settings_of  # noqa: F401
from transformers import AutoModelForCausalLM

from seal_lightning.cli.main import main
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.storage.checkpoints import complete_checkpoints

SAVING = {"class_path": "seal_lightning.callbacks.PhaseCheckpoint", "init_args": {"every_n_steps": 1}}
TWO = ("--trainer.devices", "2", "--trainer.strategy.class_path", STRATEGY)
ONE = ("--trainer.devices", "1", "--trainer.strategy", "auto")
NEVER = {"whole_replicas": "never"}


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
def test_sharded_run_resumes(where: str, alone: Path, tiny_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """In the M-step; in the next E-step, after a merge into shards that must be made again."""
    run_dir = tmp_path / "run"
    settings = saving(settings_of(tiny_folder, run_dir, {"whole_replicas": "always"}))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "a", 1, SEAL_TEST_INTERRUPT=where)
    on_two(["fit", "--resume", str(run_dir)], tmp_path / "b")
    assert_same_end(run_dir, alone)


@pytest.mark.slow
def test_sharded_run_resumes_on_other_ranks(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    run_dir = tmp_path / "run"
    settings = saving(settings_of(tiny_folder, run_dir, {"whole_replicas": "always"}))
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
def test_sharded_test_covers_every_round(alone: Path, tmp_path: Path) -> None:  # noqa: F811
    """Every round's policy, on shards into which rounds are merged again."""
    assert main(["test", "--run", str(alone), "--run_dir", str(tmp_path / "one")]) == 0
    more = [*TWO, "--run_dir", str(tmp_path / "two")]
    on_two(["test", "--run", str(alone), *more], tmp_path / "logs")
    found, expected = (json.loads((tmp_path / n / "results" / "test.json").read_text()) for n in ("two", "one"))
    assert len(found["table"]) == len(expected["table"]) > 4
    for mine, theirs in zip(found["table"], expected["table"], strict=True):
        assert mine["condition"] == theirs["condition"]
        assert mine["num_tasks"] == theirs["num_tasks"]
        assert mine["log_prob"]["mean"] == pytest.approx(theirs["log_prob"]["mean"], abs=1e-9)


@pytest.mark.slow
def test_sharded_predictions_equal_one_process(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config(tiny_folder, tmp_path / name)))
        if name == "one":
            assert main(["predict", "-c", str(path)]) == 0
        else:
            on_two(["predict", "-c", str(path), *TWO], tmp_path / "logs")
    mine, theirs = ((tmp_path / name / "results" / "self_edits.jsonl").read_text() for name in ("two", "one"))
    assert mine == theirs


@pytest.mark.slow
def test_merging_protocol_on_whole_replicas(tiny_folder: Path, tmp_path: Path) -> None:
    """Each rank merges into its own copy and restores it."""
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


@pytest.mark.slow
def test_sigterm_stops_sharded_ranks(tiny_folder: Path, tmp_path: Path) -> None:
    """Both ranks end, a checkpoint is written, and the run can be resumed."""
    run_dir = tmp_path / "run"
    settings = settings_of(tiny_folder, run_dir, {"whole_replicas": "always"}, candidates_per_call=1, rounds=1)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    children = ranks(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "logs")
    try:
        wait_until(lambda: len(attempts(run_dir, 0)) >= 3, 60)
        children[1].send(signal.SIGTERM)
        codes = [child.wait(30) for child in children]
    finally:
        end_all(children)
    assert codes == [128 + signal.SIGTERM] * 2, "\n".join(child.printed()[-2000:] for child in children)
    assert [p.stem for p in complete_checkpoints(run_dir / "checkpoints")] == ["round0-e_step-stopped"]
    assert len(attempts(run_dir, 0)) < 15
    on_two(["fit", "--resume", str(run_dir)], tmp_path / "again")
    assert len(attempts(run_dir, 0)) == 15


@pytest.mark.slow
def test_sharding_refuses_other_settings(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings_of(tiny_folder, tmp_path / "run", NEVER)))
    said = on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "c", 1)
    assert "are not kept whole on each rank ('never'), so edits cannot be tried on them" in said


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[CompletionsServer]:
    pretrained = Pretrained(source=str(tiny_folder), dtype="float64").load()
    one = CompletionsServer()
    one.serve(pretrained.model, pretrained.tokenizer)
    with serving(one):
        yield one


@pytest.mark.slow
def test_vllm_writes_where_layers_stay_sharded(server: CompletionsServer, tiny_folder: Path, tmp_path: Path) -> None:
    """The server writes and examines, a student learns: only the M-step computes on the policy's layers."""
    options = {"model": "base", "base_url": server.url, "max_lora_rank": 16, "max_difference": None}
    more = {
        "engine": {"class_path": "seal_lightning.generation.VllmEngine", "init_args": options},
        "student": {"source": str(tiny_folder), "dtype": "float64"},
    }
    assert fit(tmp_path, settings_of(tiny_folder, tmp_path / "one", None, **more)) == 0
    fit_on_two(tmp_path, settings_of(tiny_folder, tmp_path / "two", NEVER, **more))
    assert_same(tmp_path / "two", tmp_path / "one", tolerance=1e-5)  # the server's log-probabilities are rounded
