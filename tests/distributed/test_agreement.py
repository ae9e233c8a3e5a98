"""Consistency of ranks: digests, settings, launchers, and the pulse that shows a process is alive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from children import wait_until
from fakes import ToyTasks
from torch.distributed import HashStore

from seal_lightning.core.errors import ConfigError, RankLost
from seal_lightning.distributed import coordination, interruption, launching, rank_consistency, shared_store
from seal_lightning.distributed.coordination import RankCoordinator
from seal_lightning.distributed.rank_consistency import (
    RanksDiffer,
    content_digest,
    installed,
    settings_part,
    tasks_part,
    weights_part,
)
from seal_lightning.models.language_model import LanguageModel

VALUES = "{'a': {'x', 'y', 'z'}, 'b': [1, 2.5, None, object]}"


@pytest.mark.slow
def test_content_digest_ignores_the_hash_seed() -> None:
    program = f"from seal_lightning.distributed.rank_consistency import content_digest; print(content_digest({VALUES}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [2, 1]),
        ([1, [2]], [[1], 2]),
        ({"a": "1"}, {"a": 1}),
        (["a", "b"], ["ab"]),
        (torch.zeros(2000), torch.zeros(2000).index_fill_(0, torch.tensor([1000]), 1.0)),
    ],
)
def test_content_digest_differs_for_other_values(one: object, other: object) -> None:
    assert content_digest(one) == content_digest(one) != content_digest(other)


def test_content_digest_ignores_addresses() -> None:
    assert content_digest(object()) == content_digest(object())


def test_settings_part_masks_absolute_paths() -> None:
    def settings(path: str, rank: int) -> dict[str, Any]:
        return {
            "run_dir": path,
            "ckpt_path": path,
            "trainer": {"callbacks": [{"class_path": "a.B", "init_args": {"k": rank}}]},
            "data": {"files": [f"{path}/x"], "name": "Qwen/Qwen2.5-7B"},
        }

    assert settings_part(settings("/a", 8)) == settings_part(settings("/b", 8))
    assert settings_part(settings("/a", 8))["the configuration, trainer.callbacks.0.init_args.k"] == "8"
    assert settings_part(settings("/a", 8))["the configuration, data.name"] == "'Qwen/Qwen2.5-7B'"
    assert settings_part(settings("/a", 8)) != settings_part(settings("/a", 9))


def test_tasks_part_and_weights_part_see_changes(tiny: LanguageModel) -> None:
    tasks = tasks_part("train", ToyTasks(3).load())
    assert tasks == tasks_part("train", ToyTasks(3).load())
    assert tasks != tasks_part("train", ToyTasks(3, offset=1).load())
    assert next(iter(tasks)) == "data.train, task 0"
    vocabulary = tiny.tokenizer.get_vocab()
    before = weights_part(tiny.model, vocabulary)
    assert before == weights_part(tiny.model, vocabulary)
    tokens = "model.pretrained, tokens"
    assert weights_part(tiny.model, {**vocabulary, "new": 9})[tokens] != before[tokens]
    with torch.no_grad():
        next(tiny.model.parameters()).add_(1e-3)
    assert weights_part(tiny.model, vocabulary) != before


def test_require_agreement_names_the_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {**installed(), "the configuration, model.seed": "1"}
    theirs = {**mine, "packages, torch": "2.11.0"}
    monkeypatch.setattr(interruption, "gather", lambda local: [*local, ("b", mine), ("c", theirs)])
    with pytest.raises(
        RanksDiffer, match=r"differ in packages, torch: rank 2 \(host c\) has 2\.11\.0, rank 0 \(host .*"
    ):
        rank_consistency.require_agreement(mine)
    monkeypatch.setattr(interruption, "gather", lambda local: [*local, *local])
    rank_consistency.require_agreement(mine)


SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"}


def test_detected_reads_slurm() -> None:
    launch = launching.detected(SLURM)
    assert launch is not None
    assert launch.trainer_settings("auto", 1) == {"num_nodes": 2, "devices": 2}
    assert launch.trainer_settings([4, 5], 2) == {"num_nodes": 2}
    assert launching.detected({**SLURM, "SLURM_JOB_NAME": "bash"}) is None
    assert launching.detected({}) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SLURM_NTASKS": "3"}, "SLURM started 3 processes on 2 hosts, 2 of them on this one"),
        ({"SLURM_NTASKS_PER_NODE": None}, "--ntasks-per-node instead of --ntasks"),
        ({"SLURM_STEP_ID": None}, "was not started by srun"),
    ],
)
def test_detected_refuses_uneven_slurm(changed: dict[str, str | None], said: str) -> None:
    told = {name: value for name, value in {**SLURM, **changed}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        launching.detected(told)


def test_poll_notices_a_rank_without_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that computes and polls nothing is alive; one whose pulse stands still is lost."""
    store, clock = HashStore(), [0.0]
    monkeypatch.setattr(shared_store.dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(shared_store, "PULSE_EVERY_S", 0.01)
    monkeypatch.setattr(shared_store, "DEAD_WITHOUT_PULSE_S", 2.5)
    monkeypatch.setattr(coordination, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    coordinators = []
    for rank in (0, 1):
        monkeypatch.setattr(coordination, "_num_coordinators", 100)
        coordinators.append(RankCoordinator(rank, 2, 60.0))
    first, second = (coordinator._store for coordinator in coordinators)
    assert first is not None
    assert second is not None

    def num_pulses() -> int:
        return int(first.get("pulse/1")) if first.check(["pulse/1"]) else 0

    for _ in range(5):
        before = num_pulses()
        wait_until(lambda: num_pulses() > before)  # noqa: B023
        clock[0] += 2.0
        assert coordinators[0].poll(now=True) is None
    second.close()
    clock[0] += 1.1
    coordinators[0].poll(now=True)  # sees the last pulse
    clock[0] += 3.0
    with pytest.raises(RankLost, match="rank 1 can no longer be reached, for 2 s"):
        coordinators[0].poll(now=True)
    first.close()
