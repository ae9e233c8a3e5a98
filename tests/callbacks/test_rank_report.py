"""What is said of ranks, and that a fit says it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_end_to_end import config, fit

from seal_lightning.callbacks.rank_report import RankReport, in_words, rank_metrics
from seal_lightning.core import RankPhase
from seal_lightning.distributed.timers import TimeSplit, straggler, time_shares
from seal_lightning.storage.journal import RecordFile


def phase(rank: int, idle: float, adapt: float, **changes: object) -> RankPhase:
    split = {"adapt": adapt, "idle": idle, "examine": 0.0}
    return RankPhase(
        **{"rank": rank, "host": "h", "phase": "e_step", "seconds": idle + adapt, "split": split, "num_attempts": 5}
        | changes  # type: ignore[arg-type]
    )


def test_rank_metrics_of_two_ranks() -> None:
    ranks = [phase(0, idle=6.0, adapt=4.0), phase(1, idle=0.0, adapt=10.0)]
    assert straggler(ranks) == pytest.approx(3 / 7)
    assert time_shares(ranks) == {"adapt": 0.7, "idle": 0.3}
    metrics = rank_metrics(ranks)
    assert metrics["ranks/attempts_per_minute/1"] == pytest.approx(30.0)
    assert metrics["ranks/e_step/busy_seconds/0"] == 4.0
    assert metrics["time/e_step/idle"] == 0.3
    assert not any(name.startswith("gpu/") for name in metrics)
    assert "rank 1 on h was busy 43% longer" in in_words(ranks)
    assert "adapt 70%, idle 30%" in in_words(ranks)


def test_rank_metrics_of_a_gpu() -> None:
    metrics = rank_metrics([phase(0, 0.0, 1.0, gpu_memory_bytes=2**31, gpu_utilisation=80.0)])
    assert metrics["gpu/e_step/memory_gib/0"] == 2.0
    assert metrics["gpu/e_step/utilisation_percent/0"] == 80.0


def test_rank_report_without_gpu_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(device: object) -> int:
        raise ModuleNotFoundError("pynvml")

    report = RankReport()
    monkeypatch.setattr(torch.cuda, "utilization", missing)
    report._sample(torch.device("cuda"))
    assert report._utilisation == []
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 55)
    report._sample(torch.device("cuda"))
    assert report._utilisation == [], "not more often than once a second"
    report._sampled -= 2
    report._sample(torch.device("cuda"))
    assert report._utilisation == [55.0]


def test_time_split_counts_outer_activities() -> None:
    split = TimeSplit()
    with split.spent("examine"):
        time.sleep(0.02)
        with split.spent("idle"):
            time.sleep(0.02)
    time.sleep(0.01)
    seconds = split.seconds()
    assert seconds["examine"] >= 0.04
    assert seconds["idle"] == 0.0
    assert seconds["other"] >= 0.01
    with pytest.raises(ValueError), split.spent("idle"):
        raise ValueError
    with split.spent("judge"):
        time.sleep(0.01)
    assert split.seconds()["judge"] >= 0.01, "an error ends an activity"
    split.restart()
    assert sum(split.seconds().values()) < 0.01


@pytest.mark.slow
def test_fit_reports_its_times(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert fit(tmp_path, config(tiny_folder, run_dir, rounds=1)) == 0
    (e_step,) = RecordFile(run_dir / "round_0" / "ranks.e_step.jsonl", RankPhase).read()
    (m_step,) = RecordFile(run_dir / "round_0" / "ranks.m_step.jsonl", RankPhase).read()
    assert e_step.num_attempts > 0
    assert e_step.num_tokens > 0
    assert all(e_step.split[name] > 0 for name in ("propose", "adapt", "examine"))
    assert e_step.split["reinforce"] == 0 < m_step.split["reinforce"]
    assert sum(e_step.split.values()) == pytest.approx(e_step.seconds)
    board = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    names = set(board.Tags()["scalars"])
    assert {
        "ranks/attempts_per_minute/0",
        "time/e_step/adapt",
        "time/m_step/reinforce",
        "ranks/e_step/straggler",
    } <= names
