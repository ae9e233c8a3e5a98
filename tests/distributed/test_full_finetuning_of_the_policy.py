"""An M-step that trains all weights: alone, and sharded over two real processes with the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import ranks
from test_end_to_end import attempts, buffer, config, fit
from test_sharded_fit import fit_on_two, seen, settings_of
from test_sharded_runs import ONE, SAVING, TWO, on_two
from transformers import AutoModelForCausalLM

from seal_lightning.cli.main import main


def full(model: Path, run_dir: Path, options: dict | None, **more: Any) -> dict[str, Any]:
    reinforce = {"learning_rate": 0.002, "num_epochs": 2, "batch_size": 4, "max_grad_norm": 0.5}
    settings = settings_of(model, run_dir, options, policy_adapter=None, reinforce=reinforce, **more)
    settings["trainer"]["callbacks"] = [*settings["trainer"]["callbacks"][:3], SAVING]
    return settings


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("full") / "alone"
    assert fit(run_dir.parent, full(tiny_folder, run_dir, None)) == 0
    return run_dir


def exported(run_dir: Path, round_index: int) -> dict[str, torch.Tensor]:
    folder = run_dir / f"round_{round_index}" / "policy"
    weights: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    return weights


def assert_same(run_dir: Path, alone: Path) -> None:
    for round_index in (0, 1):
        mine, theirs = ({a.attempt_id: a.reward for a in attempts(of, round_index)} for of in (run_dir, alone))
        assert mine == pytest.approx(theirs, abs=1e-9)
        assert [row.text for row in buffer(run_dir, round_index)] == [row.text for row in buffer(alone, round_index)]
        found, expected = exported(run_dir, round_index), exported(alone, round_index)
        for name, weight in found.items():
            assert weight.dtype is torch.float64
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_full_finetuning_learns_every_weight(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Every weight is learned, each round goes on from the last, and tests go back to any."""
    start = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64).state_dict()
    first, second = exported(alone, 0), exported(alone, 1)
    for name, weight in start.items():
        assert not torch.equal(first[name], weight), name
        assert not torch.equal(second[name], first[name]), name
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=0.05)
    last = seen(alone)["weights"]
    assert all(torch.equal(weight, last[name]) for name, weight in second.items())
    assert main(["test", "--run", str(alone), "--run_dir", str(tmp_path / "test")]) == 0
    table = json.loads((tmp_path / "test" / "results" / "test.json").read_text())["table"]
    means = {row["round"]: row["log_prob"]["mean"] for row in table if row["condition"] == "no_adaptation"}
    assert len(means) == len(set(means.values())) == 3
    assert main(["replay", str(alone), attempts(alone, 1)[0].attempt_id]) == 0


@pytest.mark.slow
def test_full_finetuning_equals_one_process(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    settings = full(tiny_folder, run_dir, {"whole_replicas": "always"})
    settings["model"]["gradient_checkpointing"] = True
    fit_on_two(tmp_path, settings)
    assert_same(run_dir, alone)
    losses = torch.tensor([seen(run_dir, rank)["losses"] for rank in (0, 1)], dtype=torch.float64).mean(0)
    assert losses.tolist() == pytest.approx(seen(alone)["losses"], abs=1e-9)


@pytest.mark.slow
def test_full_finetuning_resumes_on_other_ranks(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """From two ranks within the M-step to one, and back within the next: weights and AdamW's moments are taken up."""
    run_dir = tmp_path / "run"
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(full(tiny_folder, run_dir, {"whole_replicas": "always"})))
    on_two(["fit", "-c", str(path)], tmp_path / "a", 1, SEAL_TEST_INTERRUPT="batch_end:1:3")
    planted = {0: {"SEAL_TEST_INTERRUPT": "batch_end:3:2"}}
    (single,) = ranks(["fit", "--resume", str(run_dir), *ONE], tmp_path / "one", 1, environments=planted)
    assert single.wait(100) == 1
    on_two(["fit", "--resume", str(run_dir), *TWO], tmp_path / "b")
    assert_same(run_dir, alone)


@pytest.mark.slow
def test_full_finetuning_is_tested_on_two_ranks(alone: Path, tmp_path: Path) -> None:
    assert main(["test", "--run", str(alone), "--run_dir", str(tmp_path / "one")]) == 0
    on_two(["test", "--run", str(alone), *TWO, "--run_dir", str(tmp_path / "two")], tmp_path / "logs")
    found, expected = (json.loads((tmp_path / n / "results" / "test.json").read_text()) for n in ("two", "one"))
    for mine, theirs in zip(found["table"], expected["table"], strict=True):
        assert mine["log_prob"]["mean"] == pytest.approx(theirs["log_prob"]["mean"], abs=1e-9)


@pytest.mark.slow
def test_full_finetuning_refuses_other_settings(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = config(tiny_folder, tmp_path / "run", policy_adapter=None)
    settings["model"]["pretrained"]["dtype"] = "bfloat16"
    assert fit(tmp_path, settings) == 1
    assert "such weights lose small updates" in capfd.readouterr().err
    settings = full(tiny_folder, tmp_path / "run", None)
    settings["trainer"] |= {"devices": 2, "strategy": "ddp"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    said = on_two(["fit", "-c", str(tmp_path / "settings.yaml")], tmp_path / "b", 1)
    assert "policy_adapter: null is not allowed with DDPStrategy" in said
