"""Two hosts with addresses of their own: the same run as on one, and what is left of it when one of them dies."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from children import end_all, ranks, wait_until
from faults.test_signals import settings_of, write
from hosts import Host, ended
from injected import acknowledged
from test_end_to_end import attempts, buffer, final_loras

PORT = 29_400
STATIC = ["--nnodes=2", "--master-addr=10.77.0.1", f"--master-port={PORT}"]
ELASTIC = [
    "--nnodes=1:2",
    "--max-restarts=3",
    "--rdzv-backend=c10d",
    f"--rdzv-endpoint=10.77.0.1:{PORT}",
    "--rdzv-id=seal",
    "--rdzv-conf=last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3",
    "--monitor-interval=0.2",
]
SLOW = {"SEAL_TEST_FAULT": "slow:"}
NUM_TASKS = 100
OWN_STORES = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""As docs/multinode.md has it."""


def settings(model: Path, run_dir: Path) -> dict:
    """As configs/trainer/ddp_multinode.yaml says, but on CPUs, and soon tired of waiting."""
    found = settings_of(model, run_dir)
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"timeout": "0:00:30"}}
    found["trainer"] |= {"devices": "auto", "strategy": strategy}
    found["trainer"]["callbacks"].append({"class_path": "interruptions.SavePolicyOfRank"})
    return found


def long_e_step(model: Path, run_dir: Path) -> dict:
    """One round whose E-step is longer, also for one host alone, than it takes to miss the other one."""
    found = settings(model, run_dir)
    found["model"]["rounds"] = 1
    found["data"] = {"train": found["data"]["train"], "tasks_per_batch": 1}
    found["data"]["train"]["init_args"]["num_tasks"] = NUM_TASKS
    return found


def start(
    pair: tuple[Host, Host], seal: list[str], logs: Path, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[bytes]]:
    """One command on both hosts."""
    return [
        host.torchrun([*STATIC, f"--node-rank={rank}"], seal, logs / f"{rank}.log", **(environment or {}))
        for rank, host in enumerate(pair)
    ]


def printed(logs: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(logs.glob("*.log")))


@pytest.mark.slow
def test_two_hosts_equal_one_host(hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    fit = ["fit", "-c", str(write(tmp_path, settings(tiny_folder, two)))]
    assert ended(start(hosts, fit, tmp_path / "fit"), 120) == [0, 0], printed(tmp_path / "fit")
    local = ranks([*fit, "--run_dir", str(one)], tmp_path / "local")
    try:
        assert [child.wait(60) for child in local] == [0, 0], local[0].printed()[-3000:]
    finally:
        end_all(local)
    for round_index in (0, 1):
        assert buffer(two, round_index) == buffer(one, round_index)
        found = [{a.attempt_id: a.reward for a in attempts(run, round_index)} for run in (one, two)]
        assert found[0] == found[1]
        assert len(found[0]) == 8 * 3
        assert {p.name for p in (two / f"round_{round_index}").glob("attempts*")} == {
            f"attempts.rank{rank}.jsonl" for rank in (0, 1)
        }
    for a, b in zip(final_loras(one), final_loras(two), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    policies = [torch.load(two / f"policy.rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(policies[0][name], policies[1][name]) for name in policies[0])
    assert len(list((two / "tensorboard").glob("events*"))) == 1, "TensorBoard is rank 0's"
    assert not list(two.glob(".rank*"))

    test = ["test", "--run"]
    assert ended(start(hosts, [*test, str(two)], tmp_path / "test"), 120) == [0, 0], printed(tmp_path / "test")
    local = ranks([*test, str(one)], tmp_path / "local-test")
    try:
        assert [child.wait(60) for child in local] == [0, 0], local[0].printed()[-3000:]
    finally:
        end_all(local)
    results = [{path.name: path for path in (run / "results").glob("*.json")} for run in (one, two)]
    assert results[0].keys() == results[1].keys() != set()
    for name in results[0]:
        found = [json.loads(of_run[name].read_text()) for of_run in results]
        assert without_times(found[0]) == without_times(found[1])


def without_times(value: object) -> object:
    if isinstance(value, dict):
        left = ("second", "minute", "memory", "path", "run", "date", "time")
        return {k: without_times(v) for k, v in value.items() if not any(word in k for word in left)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_host_death_ends_the_other(hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    """The other one ends soon and says why; alone it goes on with every attempt that was stored."""
    lose_a_host("unplugged", 1, hosts, tiny_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("for_a_release")
@pytest.mark.parametrize(("death", "victim"), [("killed", 0), ("killed", 1), ("unplugged", 0)])
def test_host_death_by_other_means(
    death: str, victim: int, hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path
) -> None:
    lose_a_host(death, victim, hosts, tiny_folder, tmp_path)


def lose_a_host(death: str, victim: int, hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    limits = long_e_step(tiny_folder, run_dir)
    limits["trainer"]["strategy"]["init_args"]["timeout"] = "0:00:15"
    fit = ["fit", "-c", str(write(tmp_path, limits))]
    started = start(hosts, fit, tmp_path / "fit", SLOW)
    wait_until(lambda: len(acknowledged(run_dir)) >= 6 or started[0].poll() is not None, 90)
    assert started[0].poll() is None, printed(tmp_path / "fit")
    hosts[victim].die() if death == "killed" else hosts[victim].unplug()
    fell = time.monotonic()
    survivor = 1 - victim
    assert started[survivor].wait(60) != 0
    assert time.monotonic() - fell < 45
    said = (tmp_path / "fit" / f"{survivor}.log").read_text()
    assert "seal fit: error: rank" in said or "connection to another rank is lost" in said, printed(tmp_path / "fit")
    hosts[victim].die()
    stored = {a.attempt_id: a for a in attempts(run_dir, 0)}
    assert set(acknowledged(run_dir)) <= stored.keys()
    assert 6 <= len(stored) < NUM_TASKS * 3

    options = ["--nnodes=1", "--master-port=29401"]
    alone = hosts[survivor].torchrun(options, ["fit", "--resume", str(run_dir)], tmp_path / "alone" / "0.log")
    assert alone.wait(120) == 0, printed(tmp_path / "alone")
    whole = {a.attempt_id: a for a in attempts(run_dir, 0)}
    assert len(whole) == NUM_TASKS * 3 == sum(1 for _ in attempts(run_dir, 0))
    assert {name: whole[name] for name in stored} == stored
    assert set(acknowledged(run_dir)[: len(stored)]) == stored.keys(), "what was stored is not made again"
    assert (run_dir / "checkpoints" / "round0-m_step.ckpt").exists()


@pytest.mark.long
@pytest.mark.slow
def test_torchrun_resumes_on_the_remaining_host(hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    """Elastic: two hosts start, the second dies, the first starts itself again, alone, from the journal."""
    run_dir = tmp_path / "run"
    limits = long_e_step(tiny_folder, run_dir)
    limits["trainer"]["strategy"]["init_args"]["timeout"] = "0:00:15"
    fit = ["fit", "-c", str(write(tmp_path, limits)), "--resume", "auto"]
    started = [
        host.torchrun(ELASTIC, fit, tmp_path / "fit" / f"{rank}.log", **SLOW, **OWN_STORES)
        for rank, host in enumerate(hosts)
    ]
    wait_until(lambda: len(acknowledged(run_dir)) >= 6 or started[0].poll() is not None, 90)
    assert started[0].poll() is None, printed(tmp_path / "fit")
    hosts[1].die()
    stored = {a.attempt_id: a for a in attempts(run_dir, 0)}
    assert len(list((run_dir / "round_0").glob("attempts*"))) == 2
    assert started[0].wait(240) == 0, printed(tmp_path / "fit")
    tried = attempts(run_dir, 0)
    assert len(tried) == len({a.attempt_id for a in tried}) == NUM_TASKS * 3
    assert {a.attempt_id: a for a in tried if a.attempt_id in stored} == stored
    assert sorted(acknowledged(run_dir)) == sorted(a.attempt_id for a in attempts(run_dir, 0))
    assert (run_dir / "checkpoints" / "round0-m_step.ckpt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("for_a_release")
def test_torchrun_includes_a_late_host(hosts: tuple[Host, Host], tiny_folder: Path, tmp_path: Path) -> None:
    """Elastic: one host starts, is told to stop when the second comes, and both go on from the journal."""
    run_dir = tmp_path / "run"
    limits = long_e_step(tiny_folder, run_dir)
    fit = ["fit", "-c", str(write(tmp_path, limits)), "--resume", "auto"]
    logs = [tmp_path / "fit" / f"{rank}.log" for rank in (0, 1)]
    first = hosts[0].torchrun(ELASTIC, fit, logs[0], **SLOW, **OWN_STORES)
    wait_until(lambda: len(acknowledged(run_dir)) >= 6 or first.poll() is not None, 90)
    assert first.poll() is None, printed(tmp_path / "fit")
    second = hosts[1].torchrun(ELASTIC, fit, logs[1], **SLOW, **OWN_STORES)
    assert ended([first, second], 240) == [0, 0], printed(tmp_path / "fit")
    assert "stopped by SIGTERM" in logs[0].read_text()
    assert len(list((run_dir / "round_0").glob("attempts*"))) == 2, "both have tried edits"
    tried = [a.attempt_id for a in attempts(run_dir, 0)]
    assert len(tried) == len(set(tried)) == NUM_TASKS * 3
    assert sorted(acknowledged(run_dir)) == sorted(tried), "nothing was made twice"
