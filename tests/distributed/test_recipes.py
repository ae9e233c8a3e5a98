"""The launch commands of the data-and-models and multi-node pages, and how the SLURM script reacts to a stop signal."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from children import wait_until
from torch.distributed.run import parse_args, parse_min_max_nnodes

from seal_lightning.cli.main import TRAINER_SUBCOMMANDS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "configs/trainer/slurm.sbatch"
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/data-and-models.md", "docs/multinode.md")]
BLOCKS = [block.replace("\\\n", " ") for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)]
LINES = [line.split(" #")[0] for block in BLOCKS for line in block.splitlines()]
INLINE = [line for page in PAGES for line in re.findall(r"`(torchrun … [^`]+)`", page)]
TORCHRUN = [part.strip() for line in LINES for part in line.split("&&") if part.strip().startswith("torchrun ")]
FAKE = {
    "srun": 'trap "exit 143" TERM; echo $$ > srun.pid; echo "$@" > srun.said; for i in $(seq 100); do sleep 0.1; done',
    "scancel": 'echo "$@" > scancel.said; kill -TERM $(cat srun.pid)',
    "scontrol": 'echo "$@" > scontrol.said',
}


def test_docs_have_torchrun_lines() -> None:
    assert len(TORCHRUN) >= 4
    assert any("--nnodes=1:4" in line for line in TORCHRUN)
    assert len([line for line in LINES if line.startswith("sbatch ")]) >= 2
    assert all("export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in page for page in PAGES)


@pytest.mark.parametrize("line", [*TORCHRUN, *(line.replace("…", "--nnodes=2") for line in INLINE)])
def test_torchrun_parses_the_docs_lines(line: str) -> None:
    found = parse_args(shlex.split(line)[1:])
    assert found.no_python
    assert found.training_script == "seal"
    words = [word for word in found.training_script_args if word != "--"]
    assert words[0] in TRAINER_SUBCOMMANDS
    assert all((ROOT / word).exists() for word in words if word.startswith("configs/"))
    fewest, most = parse_min_max_nnodes(found.nnodes)
    if fewest != most:
        assert found.rdzv_backend == "c10d"
        assert found.max_restarts > 0
        assert words[-2:] == ["--resume", "auto"]


def sbatch(folder: Path, **fakes: str) -> subprocess.Popen[bytes]:
    """The script as SLURM runs it, with programs that note what they were told."""
    for name, does in {**FAKE, **fakes}.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    known = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}
    return subprocess.Popen(["bash", SCRIPT, "-c", "a.yaml", "--run_dir", "runs/x y"], cwd=folder, env=known)


def test_slurm_job_is_requeued_after_a_stop(tmp_path: Path) -> None:
    job = sbatch(tmp_path)
    wait_until(lambda: (tmp_path / "srun.said").exists() and (tmp_path / "srun.said").read_text())
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 143
    said = (tmp_path / "srun.said").read_text()
    assert "seal fit -c a.yaml --run_dir runs/x y -c configs/trainer/ddp_multinode.yaml --resume auto" in said
    assert (tmp_path / "scancel.said").read_text() == "--signal=TERM 7.0\n"
    assert (tmp_path / "scontrol.said").read_text() == "requeue 7\n"


@pytest.mark.parametrize("code", [0, 1, 143])
def test_slurm_job_that_ends_is_not_requeued(code: int, tmp_path: Path) -> None:
    assert sbatch(tmp_path, srun=f"exit {code}").wait(20) == code
    assert not (tmp_path / "scontrol.said").exists()


def test_slurm_job_that_fails_is_not_requeued(tmp_path: Path) -> None:
    job = sbatch(tmp_path, srun=FAKE["srun"].replace("exit 143", "exit 1"))
    wait_until(lambda: (tmp_path / "srun.said").exists())
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 1
    assert not (tmp_path / "scontrol.said").exists()
