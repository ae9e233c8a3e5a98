"""Starts that would go wrong later: ranks with different things or files of their own, ports in use; all say why."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import Child, end_all, ranks, wait_until
from fakes import write_tiny_model
from faults.test_signals import settings_of, write
from hosts import Host, ended
from injected import acknowledged
from test_end_to_end import assert_same_run, attempts, config, final_loras, fit

from seal_lightning.cli.main import main

Ended = list[tuple[int, str]]


def launched(commands: Sequence[Sequence[str]], folder: Path, timeout_s: float = 120, **environment: str) -> Ended:
    """Ranks with a command line each: how they ended, and what they said."""
    shared = torchrun_says(len(commands), environment)
    children = [
        Child(command, folder / f"rank{rank}.log", {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, command in enumerate(commands)
    ]
    try:
        return [(child.wait(timeout_s), child.printed()) for child in children]
    finally:
        end_all(children)


def torchrun_says(num_ranks: int, more: Mapping[str, str]) -> dict[str, str]:
    numbers = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks, "GROUP_RANK": 0, "MASTER_PORT": free_port()}
    told = {name: str(number) for name, number in numbers.items()}
    return {"TORCHELASTIC_RUN_ID": "starts", "MASTER_ADDR": "127.0.0.1", **told, **more}


def two_rank_settings(model: Path, run_dir: Path, timeout_s: int = 30) -> dict[str, Any]:
    settings = settings_of(model, run_dir)
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy"}
    strategy["init_args"] = {"timeout": f"0:{timeout_s // 60:02d}:{timeout_s % 60:02d}"}
    settings["trainer"] |= {"devices": "auto", "strategy": strategy}
    return settings


def assert_all_said(ends: Ended, *said: str) -> None:
    for code, printed in ends:
        assert code == 1, printed[-3000:]
        assert "Traceback" not in printed, printed[-3000:]
        assert printed.count("seal fit: error:") == 1
        for part in said:
            assert part in printed, printed[-3000:]


@pytest.mark.slow
def test_start_refuses_different_settings(tiny_folder: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run")))]
    ends = launched([command, [*command, "--model.num_edits", "5"]], tmp_path / "logs")
    host = socket.gethostname()
    assert_all_said(
        ends,
        f"the ranks differ in the configuration, model.num_edits: rank 1 (host {host}) has 5, rank 0 (host {host}) has 3",
    )
    assert not list((tmp_path / "run").glob("round_*"))
    assert all("failed first" not in printed for _, printed in ends)


@pytest.mark.slow
def test_start_refuses_different_data(tiny_folder: Path, tmp_path: Path) -> None:
    settings = two_rank_settings(tiny_folder, tmp_path / "run")
    settings["model"]["domain"] = {"class_path": "seal_lightning.domains.knowledge.KnowledgeDomain"}
    del settings["data"]["test"]
    paths = []
    for rank, answer in enumerate(("It is red.", "It is blue.")):
        passages = [
            {"title": title, "context": "A stone.", "questions": [{"question": "Which colour?", "answer": said}]}
            for title, said in (("A", "It is red."), ("B", answer))
        ]
        paths.append(tmp_path / f"rank{rank}.json")
        paths[-1].write_text(json.dumps(passages))
    data = "seal_lightning.domains.knowledge.PassagesJson"
    settings["data"]["train"] = {"class_path": data, "init_args": {"path": str(paths[0])}}
    command = ["fit", "-c", str(write(tmp_path, settings))]
    ends = launched([command, [*command, "--data.train.init_args.path", str(paths[1])]], tmp_path / "logs")
    assert_all_said(ends, "the ranks differ in data.train, task 1: rank 1", "has 'b-")
    assert "task 0" not in ends[0][1]


@pytest.mark.slow
def test_start_refuses_different_weights(tiny_folder: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run")))]
    ends = launched([command, [*command, "--model.pretrained.source", str(other)]], tmp_path / "logs")
    assert_all_said(ends, "the ranks differ in model.pretrained, ", "rank 1 (host ")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_start_reports_data_missing_on_one_rank(victim: int, tiny_folder: Path, tmp_path: Path) -> None:
    """Its error is its own; the other one waits for nobody."""
    settings = two_rank_settings(tiny_folder, tmp_path / "run", timeout_s=600)  # the test fails if this is waited for
    command = ["fit", "-c", str(write(tmp_path, settings))]
    commands = [command, command]
    missing = ["--data.train", "seal_lightning.domains.knowledge.PassagesJson", "--data.train.path", "/no/such.json"]
    commands[victim] = [*command, *missing]
    ends = launched(commands, tmp_path / "logs")
    assert_all_said(ends, "/no/such.json")
    assert f"rank {victim} failed first" in ends[1 - victim][1]


@pytest.mark.slow
def test_start_refuses_separate_run_dirs(tiny_folder: Path, tmp_path: Path) -> None:
    """As where each host has a disk of its own under the path."""
    settings = two_rank_settings(tiny_folder, tmp_path / "of0" / "run")
    settings["trainer"]["callbacks"].append(
        {"class_path": "seal_lightning.callbacks.SharedRunDir", "init_args": {"wait_s": 1}}
    )
    command = ["fit", "-c", str(write(tmp_path, settings))]
    ends = launched([command, [*command, "--run_dir", str(tmp_path / "of1" / "run")]], tmp_path / "logs")
    assert_all_said(ends, f"is not shared with rank 1 (host {socket.gethostname()})", "--run_dir")
    for rank in (0, 1):
        assert not list((tmp_path / f"of{rank}").rglob("round_*"))
        assert not list((tmp_path / f"of{rank}").rglob(".rank*")), "nothing is left behind"


@pytest.mark.slow
def test_start_refuses_an_unwritable_run_dir(tiny_folder: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run")))]
    (tmp_path / "file").touch()
    ends = launched([command, [*command, "--run_dir", str(tmp_path / "file" / "run")]], tmp_path / "logs")
    assert_all_said(ends, "is not shared with rank 1", "it cannot write there (Not a directory)")


@pytest.mark.slow
def test_start_refuses_hosts_with_own_disks(hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    """The same path, and on the second host another file system there."""
    run_dir = tmp_path / "disk" / "run"
    run_dir.mkdir(parents=True)
    settings = two_rank_settings(tiny_folder, run_dir)
    seal = ["seal_lightning", "fit", "-c", str(write(tmp_path, settings))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = ["--master-addr=10.77.0.1", "--master-port=29400"]
    started = [
        host.run(
            [*torchrun, *meeting, f"--node-rank={rank}", "-m", *seal],
            tmp_path / "logs" / f"{rank}.log",
            own_files=f"mount -t tmpfs none {run_dir.parent}" if rank else None,
        )
        for rank, host in enumerate(hosts)
    ]
    assert ended(started, 90) == [1, 1]
    for rank in (0, 1):
        said = (tmp_path / "logs" / f"{rank}.log").read_text()
        assert f"is not shared with rank 1 (host {hosts[1].name})" in said, said[-3000:]


@pytest.mark.slow
def test_start_reports_a_port_in_use(tiny_folder: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run", timeout_s=5)))]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        child = Child(
            command, tmp_path / "log", torchrun_says(2, {"MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0"})
        )
        try:
            ends = [(child.wait(30), child.printed())]
        finally:
            end_all([child])
    assert_all_said(ends, f"rank 0 cannot meet the other ranks at 127.0.0.1:{port}", "MASTER_PORT")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_start_reports_a_missing_first_rank(tiny_folder: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run", timeout_s=5)))]
    child = Child(
        command, tmp_path / "log", {**torchrun_says(2, {"LOCAL_WORLD_SIZE": "1"}), "RANK": "1", "LOCAL_RANK": "0"}
    )
    try:
        assert_all_said([(child.wait(40), child.printed())], "rank 1 cannot meet the other ranks at 127.0.0.1:")
    finally:
        end_all([child])


@pytest.mark.slow
def test_start_reports_a_missing_second_rank(tiny_folder: Path, tmp_path: Path) -> None:
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, tmp_path / "run", timeout_s=5)))]
    child = Child(
        command, tmp_path / "log", {**torchrun_says(2, {"LOCAL_WORLD_SIZE": "1"}), "RANK": "0", "LOCAL_RANK": "0"}
    )
    try:
        assert_all_said([(child.wait(40), child.printed())], "rank 0 cannot meet the other ranks at 127.0.0.1:")
    finally:
        end_all([child])


@pytest.mark.slow
def test_all_ranks_resume_from_rank_zeros_checkpoint(tiny_folder: Path, tmp_path: Path) -> None:
    """Also where a rank was shown another one, as by a network file system that remembers."""
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    settings = two_rank_settings(tiny_folder, run_dir)
    settings["trainer"]["callbacks"].append({"class_path": "interruptions.SavePolicyOfRank"})
    settings["trainer"]["callbacks"].append(
        {"class_path": "seal_lightning.callbacks.PhaseCheckpoint", "init_args": {"keep": None}}
    )
    command = ["fit", "-c", str(write(tmp_path, settings))]
    assert [code for code, _ in launched([[*command, "--run_dir", str(whole)]] * 2, tmp_path / "w")] == [0, 0]
    assert [code for code, _ in launched([command] * 2, tmp_path / "logs")] == [0, 0]
    names = ["round0-m_step", "round0-e_step"]
    chosen = [["--ckpt_path", str(run_dir / "checkpoints" / f"{name}.ckpt")] for name in names]
    ends = launched([[*command, *of_rank] for of_rank in chosen], tmp_path / "again")
    assert [code for code, _ in ends] == [0, 0], ends[1][1][-3000:]
    policies = [torch.load(run_dir / f"policy.rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(policies[0][name], policies[1][name]) for name in policies[0])
    for a, b in zip(final_loras(whole), final_loras(run_dir), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_resume_auto_starts_and_resumes(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    assert fit(tmp_path, config(tiny_folder, whole)) == 0
    settings = config(tiny_folder, run_dir)
    for stop in ("attempt:0:5", "batch:1:4", "attempt:2:5", "batch:3:3"):
        monkeypatch.setenv("SEAL_TEST_INTERRUPT", stop)
        with pytest.raises(RuntimeError, match="interrupted"):
            fit(tmp_path, settings, "--resume", "auto")
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    assert fit(tmp_path, settings, "--resume=auto") == 0
    assert_same_run(run_dir, whole)
    assert [p.name for p in run_dir.glob("config*.yaml")] == ["config.yaml"]
    stored = [path.stat().st_mtime_ns for path in sorted(run_dir.glob("round_*/attempts*"))]
    assert fit(tmp_path, settings, "--resume", "auto") == 0, "a run that is over stays as it is"
    assert [path.stat().st_mtime_ns for path in sorted(run_dir.glob("round_*/attempts*"))] == stored
    assert_same_run(run_dir, whole)


@pytest.mark.slow
def test_resume_auto_on_two_ranks_then_one(tiny_folder: Path, tmp_path: Path) -> None:
    """Two of them, then one: nobody decides by what another one has just written."""
    run_dir = tmp_path / "run"
    command = ["fit", "-c", str(write(tmp_path, two_rank_settings(tiny_folder, run_dir))), "--resume", "auto"]
    children = ranks(command, tmp_path / "first")
    try:
        wait_until(lambda: len(acknowledged(run_dir)) >= 5)
        for child in children:
            child.send(signal.SIGKILL)
        assert [child.wait(10) for child in children] == [-signal.SIGKILL] * 2
    finally:
        end_all(children)
    stored = {a.attempt_id: a for a in attempts(run_dir, 0)}
    ((code, printed),) = launched([command], tmp_path / "second")
    assert code == 0, printed[-3000:]
    whole = {a.attempt_id: a for a in attempts(run_dir, 0)}
    assert len(whole) == 24
    assert {name: whole[name] for name in stored} == stored
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trainer"]["devices"] == "auto", "the user's own word"


@pytest.mark.slow
def test_resume_auto_refuses_a_checkpoint(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    settings = config(tiny_folder, tmp_path / "run")
    assert fit(tmp_path, settings, "--resume", "auto", "--ckpt_path", "x.ckpt") == 1
    assert "--ckpt_path cannot stand beside --resume auto" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "torchrun started 3 processes on 2 hosts, 2 of them on this one"),
        (
            {"trainer": {"devices": 4}, "environment": {"WORLD_SIZE": "4"}},
            "trainer.devices 4 do not match: torchrun started 2 hosts with 2 processes each",
        ),
        (
            {"trainer": {"devices": "auto", "num_nodes": 3}, "environment": {"WORLD_SIZE": "4"}},
            "trainer.num_nodes 3 and trainer.devices 'auto' do not match: torchrun started 2 hosts",
        ),
        ({"environment": {"WORLD_SIZE": "two"}}, "the environment's WORLD_SIZE: 'two' is not allowed"),
    ],
)
@pytest.mark.slow
def test_start_refuses_numbers_that_do_not_fit(
    options: dict[str, Any],
    said: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    settings = config(tiny_folder, tmp_path / "run")
    settings["trainer"] |= {"devices": "auto", **options.get("trainer", {})}
    told = torchrun_says(3, {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", **options.get("environment", {})})
    for name, value in {**told, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", "-c", str(write(tmp_path, settings))]) == 1
    assert said in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
