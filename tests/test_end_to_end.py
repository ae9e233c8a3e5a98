"""`seal fit` and its resumes on a tiny model: it learns, survives interruptions, and ranks agree."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from seal_lightning.cli.main import main
from seal_lightning.core import Attempt, BufferRow
from seal_lightning.storage.attempt_store import journals
from seal_lightning.storage.journal import Journal, RecordFile

TESTS = Path(__file__).resolve().parent


def config(folder: Path, run_dir: Path, **model: object) -> dict:
    return {
        "run_dir": str(run_dir),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 2}},
                {"class_path": "interruptions.Interrupt"},
            ],
        },
        "model": {
            "pretrained": {"source": str(folder), "dtype": "float64"},
            "domain": {
                "class_path": "fakes.ToyDomain",
                "init_args": {
                    "adapter": {"rank": 4, "alpha": 8},
                    "optimizer": {"learning_rate": 0.02, "num_epochs": 2},
                },
            },
            "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6},
            "policy_adapter": {"rank": 4, "alpha": 8, "target_modules": "all-linear"},
            "reinforce": {"learning_rate": 0.02, "num_epochs": 3, "batch_size": 3},
            "rounds": 2,
            "num_edits": 3,
            "num_repeats": 1,
            **model,
        },
        "data": {
            "train": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 4}},
            "test": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 3, "offset": 10}},
            "tasks_per_batch": 2,
        },
    }


def fit(tmp_path: Path, settings: dict, *more: str) -> int:
    path = tmp_path / f"{Path(settings['run_dir']).name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return main(["fit", "-c", str(path), *more])


def attempts(run_dir: Path, round_index: int) -> list[Attempt]:
    return [attempt for journal in journals(run_dir / f"round_{round_index}") for attempt in journal.read()]


def buffer(run_dir: Path, round_index: int) -> list[BufferRow]:
    return RecordFile(run_dir / f"round_{round_index}" / "accepted.jsonl", BufferRow).read()


def final_loras(run_dir: Path, name: str = "round1-m_step") -> list[dict]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["seal"]["merged"]


def assert_same_run(a: Path, b: Path) -> None:
    for round_index in (0, 1):
        assert buffer(a, round_index) == buffer(b, round_index)
    for of_a, of_b in zip(final_loras(a), final_loras(b), strict=True):
        assert of_a.keys() == of_b.keys()
        assert all(torch.equal(of_a[key], of_b[key]) for key in of_a)


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(run_dir.parent, config(tiny_folder, run_dir)) == 0
    return run_dir


def test_fit_keeps_all_files(uninterrupted: Path) -> None:
    for round_index in (0, 1):
        tried = attempts(uninterrupted, round_index)
        assert len(tried) == 4 * 3
        assert len({a.attempt_id for a in tried}) == len(tried)
        assert len(buffer(uninterrupted, round_index)) == 4 * 2
        assert (uninterrupted / f"round_{round_index}" / "policy" / "adapter_model.safetensors").exists()
    assert (uninterrupted / "config.yaml").exists()
    assert list((uninterrupted / "tensorboard").glob("events*"))
    newest = {f"{name}.ckpt" for name in ("round1-e_step", "round1-m_step-000008", "round1-m_step")}
    assert {p.name for p in (uninterrupted / "checkpoints").iterdir()} == newest | {f"{name}.json" for name in newest}


def test_fit_writes_tensorboard_rounds(uninterrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    names = (
        "reward_mean",
        "reward_best",
        "reward_spread_within_task",
        "malformed_rate",
        "diverged_rate",
        "kept_fraction",
    )
    costs = ("attempts_per_minute", "inner_loop_tokens_per_second", "sampled_tokens_per_second")
    assert {f"round/{name}" for name in (*names, *costs)} | {"m_step/loss"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("round/reward_mean")] == [0, 1]
    rewards = [a.reward for a in attempts(uninterrupted, 0) if a.reward is not None]
    assert events.Scalars("round/reward_mean")[0].value == pytest.approx(sum(rewards) / len(rewards), abs=1e-5)
    assert "round/rewards" in tags["histograms"]
    assert "self-edits/0/text_summary" in tags["tensors"]
    assert (uninterrupted / "tensorboard" / "hparams.yaml").exists()


def test_fit_exports_a_standard_peft_adapter(uninterrupted: Path, tiny_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from seal_lightning.cli.commands.loading import load_run
    from seal_lightning.storage.run_dir import RunDir

    module, _ = load_run(RunDir(uninterrupted))
    module.configure_model()
    module.loaded_policy.load_merged_states(final_loras(uninterrupted))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64)
    exported = PeftModel.from_pretrained(base, uninterrupted / "round_1" / "policy")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(exported(ids).logits, module.loaded_policy.model(ids).logits, atol=1e-8)
    untrained = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64)
    assert not torch.allclose(exported(ids).logits, untrained(ids).logits, atol=1e-3)


def test_fit_refuses_a_used_run_directory(
    uninterrupted: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*")}
    assert fit(uninterrupted.parent, config(tiny_folder, uninterrupted)) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["attempt:0:2", "attempt:0:7", "batch:1:1", "batch:1:4", "attempt:2:5", "batch:3:3"])
def test_fit_resumed_equals_uninterrupted(
    stop: str, uninterrupted: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "halved"
    settings = config(tiny_folder, run_dir)
    settings["trainer"]["callbacks"].append({"class_path": "interruptions.SaveOften"})
    monkeypatch.setenv("SEAL_TEST_INTERRUPT", stop)
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, settings)
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert_same_run(run_dir, uninterrupted)
    assert [a.attempt_id for r in (0, 1) for a in attempts(run_dir, r)] == [
        a.attempt_id for r in (0, 1) for a in attempts(uninterrupted, r)
    ]


def test_fit_saves_checkpoints_within_an_m_step(
    uninterrupted: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on every step: never on the last batch, after which a resume would not merge."""
    run_dir = tmp_path / "steps"
    settings = config(tiny_folder, run_dir)
    every_step = {
        "class_path": "seal_lightning.callbacks.PhaseCheckpoint",
        "init_args": {"every_n_steps": 1, "keep": None},
    }
    settings["trainer"]["callbacks"].append(every_step)
    monkeypatch.setenv("SEAL_TEST_INTERRUPT", "batch:3:9")
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, settings)
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    names = {path.stem for path in (run_dir / "checkpoints").glob("*.ckpt")}
    assert {name for name in names if name.startswith("round0-m_step-")} == {
        f"round0-m_step-{n:06d}" for n in range(1, 9)
    }
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert_same_run(run_dir, uninterrupted)


def test_fit_resets_the_optimizer_each_round(uninterrupted: Path) -> None:
    saved = torch.load(uninterrupted / "checkpoints" / "round1-m_step.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["state"] == {}


def test_replay_gives_the_stored_reward(uninterrupted: Path) -> None:
    for round_index in (0, 1):
        assert main(["replay", str(uninterrupted), attempts(uninterrupted, round_index)[-1].attempt_id]) == 0


def test_replay_notices_another_reward(uninterrupted: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(uninterrupted, copy)
    file = copy / "round_0" / "attempts.rank0.jsonl"
    told = journals(file.parent)[0].read()[0]
    file.unlink()
    Journal(file, Attempt).append(replace(told, reward=told.reward + 0.01))
    assert main(["replay", str(copy), told.attempt_id]) == 1


def test_test_compares_all_conditions(uninterrupted: Path) -> None:
    assert main(["test", "--run", str(uninterrupted)]) == 0
    content = json.loads((uninterrupted / "results" / "test.json").read_text())
    rows = {(row["condition"], row["round"]): row for row in content["table"]}
    assert rows.keys() == {
        ("no_adaptation", 0),
        ("no_adaptation", 1),
        ("no_adaptation", 2),
        ("in_context", 0),
        ("without_edit", 0),
        ("without_edit_matched", 0),
        ("without_edit_matched", 2),
        ("self_edit", 0),
        ("self_edit", 1),
        ("self_edit", 2),
    }
    assert all(row["num_tasks"] == 3 and row["log_prob"]["standard_error"] is not None for row in rows.values())
    steps = {(r["condition"], r["round"], r["task_id"]): r["num_steps"] for r in content["results"]}
    for condition, round_index, task_id in steps:
        if condition == "without_edit_matched":
            assert steps[condition, round_index, task_id] == steps["self_edit", 2, task_id]
    assert main(["test", "--run", str(uninterrupted)]) == 0
    assert (uninterrupted / "results" / "test-2.json").exists()
    again = json.loads((uninterrupted / "results" / "test-2.json").read_text())
    assert again["table"] == content["table"]


def test_predict_writes_self_edits(uninterrupted: Path) -> None:
    assert main(["predict", "--run", str(uninterrupted)]) == 0
    lines = (uninterrupted / "results" / "self_edits.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 3
    assert all("text" in json.loads(line) for line in lines)


def test_fit_that_failed_early_leaves_the_folder_free(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "second-try"
    settings = config(tiny_folder, run_dir, rounds=1)
    assert fit(tmp_path, settings, "--model.pretrained.source", "/no/such/model") == 1
    assert fit(tmp_path, settings) == 0
    assert str(tiny_folder) in (run_dir / "config.yaml").read_text()


def test_fit_resumed_with_other_settings_keeps_them(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "longer"
    assert fit(tmp_path, config(tiny_folder, run_dir, rounds=1)) == 0
    assert main(["fit", f"--resume={run_dir}"]) == 0
    assert not (run_dir / "config-2.yaml").exists()
    assert main(["fit", "--resume", str(run_dir), "--model.rounds", "2"]) == 0
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["model"]["rounds"] == 1
    assert yaml.safe_load((run_dir / "config-2.yaml").read_text())["model"]["rounds"] == 2
    assert len(final_loras(run_dir)) == 2
    assert main(["replay", str(run_dir), attempts(run_dir, 1)[0].attempt_id]) == 0


def test_fit_validates_after_each_m_step(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "validated"
    settings = config(tiny_folder, run_dir, rounds=1)
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 20}}
    assert fit(tmp_path, settings) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"validation/reward", "round/reward_mean", "round/kept_fraction", "m_step/loss"} <= tags
    assert main(["validate", "--run", str(run_dir)]) == 0


def test_fit_raises_rewards_over_rounds(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "learning"
    settings = config(tiny_folder, run_dir, rounds=3, num_edits=12)
    settings["trainer"]["callbacks"][0]["init_args"]["k"] = 3
    settings["model"]["reinforce"] = {"learning_rate": 0.02, "num_epochs": 6, "batch_size": 3}
    assert fit(tmp_path, settings) == 0
    means = [
        sum(a.reward for a in attempts(run_dir, r) if a.reward is not None) / len(attempts(run_dir, r))
        for r in range(3)
    ]
    assert means[2] > means[0] + 0.1, means


def test_fit_exports_a_merged_model(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir = tmp_path / "merged"
    settings = config(tiny_folder, run_dir, rounds=1)
    export = {"class_path": "seal_lightning.callbacks.PolicyExport", "init_args": {"kind": "merged"}}
    settings["trainer"]["callbacks"].append(export)
    assert fit(tmp_path, settings) == 0
    folder = run_dir / "round_0" / "policy"
    assert not (folder / "adapter_config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(tiny_folder).state_dict()
    merged = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert any(not torch.equal(base[name], merged[name]) for name in base)
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids


def test_fit_counts_diverged_attempts(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "diverging"
    settings = config(tiny_folder, run_dir)
    settings["model"]["domain"]["init_args"]["optimizer"]["learning_rate"] = 1e300
    assert fit(tmp_path, settings) == 1
    assert "12 diverged" in capsys.readouterr().err
    assert {a.status.value for a in attempts(run_dir, 0)} == {"diverged"}


def test_fit_fails_on_an_empty_buffer(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "empty"
    settings = config(tiny_folder, run_dir)
    settings["trainer"]["callbacks"][0] = {
        "class_path": "seal_lightning.callbacks.AboveThreshold",
        "init_args": {"threshold": 1.0},
    }
    assert fit(tmp_path, settings) == 1
    error = capsys.readouterr().err
    assert "the buffer of round 0 is empty" in error
    assert "12 scored" in error
    assert len(attempts(run_dir, 0)) == 12


def launch(tmp_path: Path, *args: str) -> None:
    """`seal` in a process of its own, which starts the other ranks."""
    command = [sys.executable, "-m", "seal_lightning", *args]
    environment = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_fit_on_two_processes_equals_one(tiny_folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    settings = config(tiny_folder, run_dir)
    # One validation task: a rank without any must not wait for, or be waited for by, the other.
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 1, "offset": 20}}
    settings["trainer"]["callbacks"].append({"class_path": "interruptions.SavePolicyOfRank"})
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(settings))
    overlay = str(TESTS.parent / "configs" / "trainer" / "ddp.yaml")
    launch(tmp_path, "fit", "-c", str(path), "-c", overlay, "--trainer.accelerator", "cpu", "--trainer.devices", "2")
    ranks = [torch.load(run_dir / f"policy.rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == ranks[1].keys()
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
    for round_index in (0, 1):
        assert {a.attempt_id for a in attempts(run_dir, round_index)} == {
            a.attempt_id for a in attempts(uninterrupted, round_index)
        }
        for ours, theirs in zip(buffer(run_dir, round_index), buffer(uninterrupted, round_index), strict=True):
            assert (ours.task_id, ours.edit_index, ours.token_ids) == (
                theirs.task_id,
                theirs.edit_index,
                theirs.token_ids,
            )
            assert ours.reward == pytest.approx(theirs.reward, abs=1e-9)
    for ours, theirs in zip(final_loras(run_dir), final_loras(uninterrupted), strict=True):
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-8) for key in ours)
    launch(tmp_path, "test", "--run", str(run_dir))
    assert main(["test", "--run", str(uninterrupted)]) == 0
    shared, alone = (
        json.loads(sorted((folder / "results").glob("test*.json"))[0].read_text())
        for folder in (run_dir, uninterrupted)
    )
    assert shared["world_size"] == 2
    for ours, theirs in zip(shared["table"], alone["table"], strict=True):
        assert (ours["condition"], ours["round"]) == (theirs["condition"], theirs["round"])
        assert ours["log_prob"]["mean"] == pytest.approx(theirs["log_prob"]["mean"], abs=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.slow
def test_fit_on_one_process_with_nccl(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "nccl"
    settings = config(tiny_folder, run_dir)
    settings["model"]["pretrained"]["dtype"] = "float32"
    path = tmp_path / "nccl.yaml"
    path.write_text(yaml.safe_dump(settings))
    overlay = str(TESTS.parent / "configs" / "trainer" / "ddp.yaml")
    options = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
    launch(tmp_path, "fit", "-c", str(path), "-c", overlay, *options)
    assert len(attempts(run_dir, 1)) > 0
