"""SIGTERM or SIGINT to any rank: all ranks journal, checkpoint and end soon, and the run goes on to the same end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from children import Child, end_all, ranks, side_by_side, wait_until
from injected import acknowledged
from test_end_to_end import attempts, config

from seal_lightning.storage.checkpoints import complete_checkpoints


def settings_of(folder: Path, run_dir: Path, **model: object) -> dict:
    """Enough work that a signal comes in time: 32 attempts a round, one at a time."""
    settings = config(folder, run_dir, candidates_per_call=1, **model)
    settings["trainer"] |= {"devices": 2, "strategy": "ddp"}
    settings["trainer"]["callbacks"] = [settings["trainer"]["callbacks"][0], {"class_path": "injected.Faults"}]
    settings["data"]["train"]["init_args"]["num_tasks"] = 8
    settings["data"]["tasks_per_batch"] = 1
    return settings


def write(tmp_path: Path, settings: dict) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def codes_within(children: list[Child], seconds: float) -> list[int]:
    """The exit codes; all must have ended in time."""
    deadline = time.monotonic() + seconds
    return [child.wait(max(0.1, deadline - time.monotonic())) for child in children]


@pytest.mark.slow
def test_sigterm_to_rank_one_stops_all(tiny_folder: Path, tmp_path: Path) -> None:
    tell_to_stop([1], 1, tiny_folder, tmp_path / "once")


@pytest.mark.slow
def test_sigterm_to_any_rank_stops_all(tiny_folder: Path, tmp_path: Path, counted: Callable[[int], int]) -> None:
    told = {"first": [0], "second": [1], "all": [0, 1]}
    side_by_side(lambda name: tell_to_stop(told[name], counted(5), tiny_folder, tmp_path / name), told)


def tell_to_stop(told: list[int], times: int, model: Path, folder: Path) -> None:
    """One run that is stopped and resumed so many times."""
    folder.mkdir()
    run_dir = folder / "run"
    path = write(folder, settings_of(model, run_dir, rounds=2 * times))
    stored = 0
    for time_told in range(times):
        args = ["fit", "--resume", str(run_dir)] if time_told else ["fit", "-c", str(path)]
        children = ranks(args, folder / f"{time_told}")
        try:
            wait_until(lambda: len(acknowledged(run_dir)) >= stored + 5)  # noqa: B023
            time.sleep(0.15 * time_told)  # in the E-step, in the M-step, and wherever the next round is
            for rank in told:
                children[rank].send(signal.SIGTERM)
            codes = codes_within(children, 60)
        finally:
            end_all(children)
        assert codes == [128 + signal.SIGTERM] * 2, [child.printed()[-2000:] for child in children]
        assert "stopped by SIGTERM" in children[0].printed()
        assert f"seal fit --resume {run_dir}" in children[0].printed()
        assert complete_checkpoints(run_dir / "checkpoints")
        stored = len(acknowledged(run_dir))
        ids = [a.attempt_id for r in range(2 * times) for a in attempts(run_dir, r)]
        assert sorted(ids) == sorted(acknowledged(run_dir))
    assert not list(run_dir.rglob(".*.tmp"))


@pytest.mark.slow
def test_sigterm_to_a_waiting_rank_stops_all(tiny_folder: Path, tmp_path: Path) -> None:
    """The first rank writes the checkpoint, and it has ended its own E-step already."""
    run_dir = tmp_path / "run"
    path = write(tmp_path, settings_of(tiny_folder, run_dir, rounds=1))
    children = ranks(["fit", "-c", str(path)], tmp_path / "first", environments={1: {"SEAL_TEST_FAULT": "slow:"}})
    try:
        wait_until(lambda: len(acknowledged(run_dir)) >= 12 + 4)
        children[0].send(signal.SIGTERM)
        assert codes_within(children, 60) == [128 + signal.SIGTERM] * 2, children[0].printed()[-2000:]
    finally:
        end_all(children)
    assert len(attempts(run_dir, 0)) < 24
    assert [p.stem for p in complete_checkpoints(run_dir / "checkpoints")] == ["round0-e_step-stopped"]
    assert codes_within(ranks(["fit", "--resume", str(run_dir)], tmp_path / "second"), 120) == [0, 0]
    assert len(attempts(run_dir, 0)) == 24


@pytest.mark.slow
def test_stopped_run_resumes_to_the_same_end(tiny_folder: Path, tmp_path: Path) -> None:
    """With two ranks, then one, then two: the tasks that share a call are the same, so the bits are."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    codes = codes_within(
        ranks(["fit", "-c", str(write(tmp_path, settings_of(tiny_folder, whole)))], tmp_path / "w"), 60
    )
    assert codes == [0, 0]
    path = write(tmp_path, settings_of(tiny_folder, halved))
    children = ranks(["fit", "-c", str(path)], tmp_path / "h1")
    wait_until(lambda: len(acknowledged(halved)) >= 3)
    children[1].send(signal.SIGINT)
    assert codes_within(children, 60) == [128 + signal.SIGINT] * 2, children[0].printed()[-2000:]
    assert len(attempts(halved, 0)) < 24
    one = Child(
        ["fit", "--resume", str(halved), "--trainer.devices", "1", "--trainer.strategy", "auto"], tmp_path / "one"
    )
    wait_until(lambda: len(acknowledged(halved)) >= 15)
    one.send(signal.SIGTERM)
    assert one.wait(30) == 128 + signal.SIGTERM, one.printed()[-2000:]
    children = ranks(
        ["fit", "--resume", str(halved), "--trainer.devices", "2", "--trainer.strategy", "ddp"], tmp_path / "h2"
    )
    assert codes_within(children, 120) == [0, 0], children[0].printed()[-2000:]
    rewards = [{a.attempt_id: a.reward for a in attempts(run_dir, 0)} for run_dir in (whole, halved)]
    assert rewards[0] == rewards[1]
    saved = [
        torch.load(run_dir / "checkpoints" / "round1-m_step.ckpt", weights_only=True)["seal"]["merged"]
        for run_dir in (whole, halved)
    ]
    for a, b in zip(*saved, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
