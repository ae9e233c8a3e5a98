"""A rank that is killed, stopped or raises: the others end soon, say what came first, and nothing is left running."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from children import TESTS, end_all, ranks, side_by_side, wait_until
from injected import acknowledged
from test_end_to_end import attempts
from test_signals import settings_of, write

TIMEOUT_S = 5
COLD_START_S = 30  # a strategy's timeout also bounds how long a rank waits at the start for the others' imports


def impatient(folder: Path, run_dir: Path, timeout_s: int = TIMEOUT_S) -> dict:
    settings = settings_of(folder, run_dir)
    settings["trainer"]["strategy"] = {
        "class_path": "lightning.pytorch.strategies.DDPStrategy",
        "init_args": {"timeout": f"0:00:{timeout_s:02d}"},
    }
    return settings


@pytest.mark.parametrize("fault", ["killed", "stopped", "raising"])
@pytest.mark.slow
def test_lost_rank_ends_the_others(
    fault: str, tiny_folder: Path, tmp_path: Path, counted: Callable[[int], int]
) -> None:
    side_by_side(lambda number: lose_a_rank(fault, number, tiny_folder, tmp_path / f"{number}"), range(counted(5)))


@pytest.mark.slow
def test_raising_rank_ends_the_others(tiny_folder: Path, tmp_path: Path) -> None:
    lose_a_rank("raising", 5, tiny_folder, tmp_path / "one")  # in an E-step, where the cause is told


def lose_a_rank(fault: str, number: int, model: Path, folder: Path) -> None:
    """One of two, at a random instant; the other one ends and says why."""
    chance, victim, run_dir = random.Random(number), number % 2, folder / "run"
    folder.mkdir()
    settings = impatient(model, run_dir)
    planted = {victim: {"SEAL_TEST_FAULT": f"raise:{number}"}} if fault == "raising" else {}
    if fault != "raising" and number % 3 == 0:
        # An E-step that is much longer than the others wait: they must not wait for its end.
        settings["data"]["train"]["init_args"]["num_tasks"] = 100
        del settings["data"]["test"]
        planted = {rank: {"SEAL_TEST_FAULT": "slow:"} for rank in (0, 1)}
    path = write(folder, settings)
    children = ranks(["fit", "-c", str(path)], folder / "logs", environments=planted)
    other = children[1 - victim]
    try:
        if fault != "raising":
            wait_until(lambda: len(acknowledged(run_dir)) >= 4)
            time.sleep(chance.uniform(0, 1.0))
            children[victim].send(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        code = other.wait(TIMEOUT_S + 60)
        if fault == "raising":
            assert children[victim].wait(TIMEOUT_S + 60) == 1
    finally:
        end_all(children)
    said = other.printed()
    assert code == 1, said[-3000:]
    if fault == "raising":
        assert "ValueError: planted by the test" in children[victim].printed()
        in_e_step = random.Random(str(number)).randrange(4) % 2 == 0
        cause = f"rank {victim} failed first: 'planted by the test'"
        assert cause in said or (not in_e_step and "connection to another rank is lost" in said), said[-3000:]
    else:
        assert "lost" in said or "sign of life" in said or "can no longer be reached" in said, said[-3000:]
    assert "Traceback" not in said, said[-3000:]
    assert set(acknowledged(run_dir)) <= {a.attempt_id for r in (0, 1) for a in attempts(run_dir, r)}


@pytest.mark.slow
def test_uneven_work_gives_equal_policies(tiny_folder: Path, tmp_path: Path, counted: Callable[[int], int]) -> None:
    """Three ranks, fewer or more tasks: the run completes, and policies are bit-equal."""
    for number in range(counted(3)):
        run_dir = tmp_path / f"run{number}"
        settings = settings_of(tiny_folder, run_dir, seed=1 + number)
        settings["trainer"]["devices"] = 3
        settings["data"]["train"]["init_args"]["num_tasks"] = (1, 2, 4)[number % 3]
        settings["trainer"]["callbacks"].append({"class_path": "interruptions.SavePolicyOfRank"})
        children = ranks(["fit", "-c", str(write(tmp_path, settings))], tmp_path / f"logs{number}", num_ranks=3)
        try:
            assert [child.wait(120) for child in children] == [0, 0, 0], children[0].printed()[-2000:]
        finally:
            end_all(children)
        policies = [torch.load(run_dir / f"policy.rank{rank}.pt", weights_only=True) for rank in range(3)]
        assert all(torch.equal(policies[0][name], policies[rank][name]) for name in policies[0] for rank in (1, 2))


@pytest.mark.slow
def test_lightnings_launcher_leaves_no_orphans(tiny_folder: Path, tmp_path: Path) -> None:
    for victim in ("child", "parent", "stopped child"):  # one after the other: each is two cold starts
        launch_and_hurt(victim, tiny_folder, tmp_path / victim.replace(" ", "-"))


def launch_and_hurt(victim: str, model: Path, folder: Path) -> None:
    """A cold start of two ranks; nothing of it may be left running."""
    folder.mkdir()
    run_dir = folder / "run"
    path = write(folder, impatient(model, run_dir, COLD_START_S))
    paths = f"{TESTS / 'faults'}:{TESTS}:{TESTS.parent}"
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "seal_lightning", "fit", "-c", str(path)]
        parent = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: len(acknowledged(run_dir)) >= 4 or parent.poll() is not None, 90)
        assert parent.poll() is None, (folder / "log").read_text()[-3000:]
        (child,) = [p for p in psutil.Process(parent.pid).children() if str(path) in " ".join(p.cmdline())]
        hurt = psutil.Process(parent.pid) if victim == "parent" else child
        hurt.send_signal(signal.SIGSTOP if victim == "stopped child" else signal.SIGKILL)
        # Only silence is waited for as long as the timeout says; a rank that is gone is seen at once.
        silent_s = COLD_START_S if victim == "stopped child" else TIMEOUT_S
        wait_until(lambda: parent.poll() is not None, silent_s + 60)
        wait_until(lambda: not running(path), silent_s + 60)
        assert parent.returncode != 0
    finally:
        for process in running(path):
            process.kill()


def running(config: Path) -> list[psutil.Process]:
    """The processes whose command line has this file, the dead ones aside."""
    found = psutil.process_iter(["cmdline", "status"])
    alive = [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]
    return [process for process in alive if str(config) in " ".join(process.info["cmdline"] or [])]
