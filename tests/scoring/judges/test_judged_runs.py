"""Whole runs whose answers a judge behind an endpoint grades: what they cost, and what an outage does to them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Behaviour, Handler, completion, fails, serving
from test_end_to_end import attempts, config, fit

from seal_lightning.cli.main import main
from seal_lightning.core import AttemptStatus


def decides_by_text(handler: Handler, body: dict[str, Any]) -> None:
    """Yes or no, as good as at random but always the same."""
    text = body["messages"][-1]["content"]
    handler.send(200, completion(json.dumps({"option": ("yes", "no")[zlib.crc32(text.encode()) % 2]})))


def settings(folder: Path, run_dir: Path, url: str, cache: Path, **judge: Any) -> dict:
    options = {"model": "m", "base_url": url, "api_key_env": "JUDGE_KEY", "cache_dir": str(cache), "deadline_s": 5.0}
    return config(
        folder,
        run_dir,
        rounds=1,
        reward={"class_path": "seal_lightning.scoring.rewards.AccuracyReward"},
        grader={
            "class_path": "seal_lightning.scoring.graders.JudgeGrader",
            "init_args": {
                "judge": {"class_path": "seal_lightning.scoring.judges.EndpointJudge", "init_args": options | judge},
                "guard": False,  # the tiny model writes anything
            },
        },
    )


def rewards(run_dir: Path) -> list[float | None]:
    return [a.reward for a in attempts(run_dir, 0)]


def test_judged_run_repeats_from_the_cache(
    tiny_folder: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    with serving(decides_by_text) as server:
        assert fit(tmp_path, settings(tiny_folder, tmp_path / "first", server.url, cache)) == 0
        num_requests = len(server.requests)
        first = capsys.readouterr().out
        assert fit(tmp_path, settings(tiny_folder, tmp_path / "second", server.url, cache)) == 0
        assert num_requests > 0
        assert len(server.requests) == num_requests
    assert "EndpointJudge:" in first
    assert f"{num_requests} requests" in first
    assert rewards(tmp_path / "first") == rewards(tmp_path / "second")
    assert {0.0, 1.0} <= set(rewards(tmp_path / "first"))
    assert_key_is_nowhere(tmp_path, key)
    assert _scalar(tmp_path / "first", "judge/requests") > 0
    assert _scalar(tmp_path / "second", "judge/requests") == 0
    assert _scalar(tmp_path / "second", "judge/cached") == _scalar(tmp_path / "second", "judge/questions") > 0


def test_judged_run_resumes_after_an_outage(
    tiny_folder: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(decides_by_text) as server:
        whole = settings(tiny_folder, tmp_path / "whole", server.url, tmp_path / "other cache")
        assert fit(tmp_path, whole) == 0
    run_dir = tmp_path / "run"
    outage: list[Behaviour] = [*[decides_by_text] * 6, fails(401)]
    with serving(*outage) as server:
        cut = settings(tiny_folder, run_dir, server.url, tmp_path / "cache", min_questions=2, max_concurrency=1)
        cut["model"]["candidates_per_call"] = 2
        capsys.readouterr()
        assert fit(tmp_path, cut) == 1
        message = capsys.readouterr().err
        for part in ("undecided", "HTTP 401", "kept", "seal fit --resume"):
            assert part in message
        before = attempts(run_dir, 0)
        assert before
        assert all(attempt.status is AttemptStatus.SCORED for attempt in before), "those in flight are not stored"
        server.behaviours[:] = [decides_by_text]
        assert main(["fit", "--resume", str(run_dir)]) == 0
    assert sorted(rewards(run_dir), key=repr) == sorted(rewards(tmp_path / "whole"), key=repr)
    assert_key_is_nowhere(tmp_path, key)


def test_judged_run_needs_its_key_first(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    assert fit(tmp_path, settings(tiny_folder, tmp_path / "run", "http://127.0.0.1:9/v1", tmp_path / "cache")) == 1
    assert "JUDGE_KEY is not set" in capsys.readouterr().err
    assert not attempts(tmp_path / "run", 0)


def assert_key_is_nowhere(folder: Path, key: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]


def _scalar(run_dir: Path, name: str) -> float:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events.Scalars(name)[-1].value


@pytest.mark.slow
def test_rubric_judge_has_the_same_limit(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": "m", "api_key_env": "JUDGE_KEY", "cache_dir": str(tmp_path / "cache"), "max_concurrency": 1}

    def rubric(url: str) -> dict:
        judge = {"class_path": "seal_lightning.scoring.judges.EndpointJudge", "init_args": options | {"base_url": url}}
        reward = {"class_path": "seal_lightning.scoring.rewards.RubricReward", "init_args": {"judge": judge}}
        return config(tiny_folder, tmp_path / "run", rounds=1, reward=reward)

    with serving(*[decides_by_mark] * 6, fails(401)) as server:
        assert fit(tmp_path, rubric(server.url)) == 1
        assert "14 of 20 questions undecided" in capsys.readouterr().err
        server.behaviours[:] = [decides_by_mark]
        assert main(["fit", "--resume", str(tmp_path / "run")]) == 0
    assert "EndpointJudge:" in capsys.readouterr().out
    assert all(reward is not None for reward in rewards(tmp_path / "run"))


def decides_by_mark(handler: Handler, body: dict[str, Any]) -> None:
    """A mark from 1 to 5, always the same for a text."""
    text = body["messages"][-1]["content"]
    handler.send(200, completion(json.dumps({"option": str(1 + zlib.crc32(text.encode()) % 5)})))
