"""One kill of a run on the small real model: it goes on and ends with the same bits."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from children import Child, wait_until
from injected import acknowledged
from test_end_to_end import attempts, buffer, final_loras

ROOT = Path(__file__).resolve().parents[2]


def settings_of(run_dir: Path) -> dict:
    """The quickstart with one passage, two short edits, tried one by one."""
    settings = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    settings["run_dir"] = str(run_dir)
    settings["trainer"] |= {"enable_progress_bar": False, "logger": False}
    settings["trainer"]["callbacks"] += [{"class_path": "injected.Faults"}]
    settings["model"] |= {"rounds": 1, "num_edits": 2, "candidates_per_call": 1}
    settings["model"]["sampling"]["max_new_tokens"] = 24
    settings["data"]["train"]["init_args"]["limit"] = 1
    settings["data"] = {"train": settings["data"]["train"]}
    return settings


def start(tmp_path: Path, run_dir: Path) -> Child:
    path = tmp_path / f"{run_dir.name}.yaml"
    path.write_text(yaml.safe_dump(settings_of(run_dir)))
    return Child(["fit", "-c", str(path)], tmp_path / f"{run_dir.name}.log")


@pytest.mark.slow
def test_killed_run_of_a_real_model_resumes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(tmp_path, whole)
    assert uninterrupted.wait(300) == 0, uninterrupted.printed()[-3000:]
    child = start(tmp_path, killed)
    wait_until(lambda: acknowledged(killed), 120)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert [a.attempt_id for a in attempts(killed, 0)][: len(acknowledged(killed))] == acknowledged(killed)
    resumed = Child(["fit", "--resume", str(killed)], tmp_path / "resumed.log")
    assert resumed.wait(300) == 0, resumed.printed()[-3000:]
    assert [a.attempt_id for a in attempts(killed, 0)] == [a.attempt_id for a in attempts(whole, 0)]
    assert [a.reward for a in attempts(killed, 0)] == [a.reward for a in attempts(whole, 0)]
    assert buffer(killed, 0) == buffer(whole, 0)
    (merged,), (expected,) = (final_loras(run_dir, "round0-m_step") for run_dir in (killed, whole))
    assert all((merged[name] == expected[name]).all() for name in expected)
