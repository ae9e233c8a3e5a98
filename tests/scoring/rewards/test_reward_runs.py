"""Whole runs with rewards that ask for more than the exam: they resume to the same bits, replay, and are shown."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_end_to_end import assert_same_run, attempts, buffer, config, fit

from seal_lightning.cli.main import main
from seal_lightning.core import Attempt, AttemptStatus
from seal_lightning.storage.journal import Journal

TIMELESS = {"adapt_seconds": 0.0, "examine_seconds": 0.0}
OWN = {
    "class_path": "seal_lightning.scoring.rewards.OwnQuestionsReward",
    "init_args": {"num_questions": 1, "retries": 0, "sampling": {"max_new_tokens": 4}},
}


def probe(offset: int) -> dict[str, Any]:
    source = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": offset}}
    return {"class_path": "seal_lightning.scoring.rewards.RetentionReward", "init_args": {"probe": source}}


def rubric(in_background: bool) -> dict[str, Any]:
    judge = {"class_path": "asking.LengthJudge", "init_args": {"in_background": in_background}}
    return {"class_path": "seal_lightning.scoring.rewards.RubricReward", "init_args": {"judge": judge}}


ALL_KINDS = {
    "class_path": "seal_lightning.scoring.rewards.WeightedSum",
    "init_args": {
        "terms": [
            {"weight": 1.0, "reward": OWN},
            {"weight": 1.0, "reward": probe(20)},
            {"weight": 0.01, "reward": rubric(True)},
        ]
    },
}


def settings(folder: Path, run_dir: Path, reward: dict[str, Any]) -> dict[str, Any]:
    found = config(folder, run_dir, reward=reward)
    found["model"]["domain"]["class_path"] = "asking.AskingDomain"
    found["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 8}}
    return found


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "all-kinds"
    assert fit(run_dir.parent, settings(tiny_folder, run_dir, ALL_KINDS)) == 0
    return run_dir


def timeless(made: list[Attempt]) -> list[Attempt]:
    return [replace(attempt, **TIMELESS) for attempt in made]


def test_all_kinds_of_rewards_in_one_run(whole: Path) -> None:
    for round_index in (0, 1):
        made = attempts(whole, round_index)
        by_status = {status: [a for a in made if a.status is status] for status in AttemptStatus}
        assert {a.task_id for a in by_status[AttemptStatus.SCORED]} == {"stone-0", "stone-2"}
        assert {a.task_id for a in by_status[AttemptStatus.UNSCORED]} == {"stone-1", "stone-3"}
        befores = {a.auxiliary_exams["probe"].before for a in by_status[AttemptStatus.SCORED]}
        assert len(befores) == 1
        for scored in by_status[AttemptStatus.SCORED]:
            parts = scored.reward_breakdown
            total = parts["OwnQuestionsReward"] + parts["RetentionReward"] + 0.01 * parts["RubricReward"]
            assert scored.reward == pytest.approx(total)
        assert {row.task_id for row in buffer(whole, round_index)} == {"stone-0", "stone-2"}
    questions = [attempts(whole, r)[0].auxiliary_exams["own questions"].questions for r in (0, 1)]
    assert questions[0] != questions[1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["attempt:0:2", "attempt:0:8"])
def test_a_resumed_run_ends_the_same(
    stop: str, whole: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "halved"
    monkeypatch.setenv("SEAL_TEST_INTERRUPT", stop)
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, settings(tiny_folder, run_dir, ALL_KINDS))
    assert len(attempts(run_dir, 0)) == int(stop.split(":")[2])
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert_same_run(run_dir, whole)
    for round_index in (0, 1):
        assert timeless(attempts(run_dir, round_index)) == timeless(attempts(whole, round_index))


def test_overlapped_judging_makes_the_same_run(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "in-turn"
    in_turn = {"class_path": ALL_KINDS["class_path"], "init_args": {"terms": [*ALL_KINDS["init_args"]["terms"]]}}
    in_turn["init_args"]["terms"][2] = {"weight": 0.01, "reward": rubric(False)}
    assert fit(tmp_path, settings(tiny_folder, run_dir, in_turn)) == 0
    assert_same_run(run_dir, whole)
    assert timeless(attempts(run_dir, 1)) == timeless(attempts(whole, 1))


def test_replay_asks_the_questions_that_were_asked(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for round_index in (0, 1):
        for stored in (attempts(whole, round_index)[0], attempts(whole, round_index)[3]):
            assert main(["replay", str(whole), stored.attempt_id]) == 0
    assert "RetentionReward/forgotten" in capsys.readouterr().out


def test_replay_takes_the_questions_from_the_journal(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    file = copy / "round_0" / "attempts.rank0.jsonl"
    told = attempts(copy, 0)[0]
    other = replace(told.auxiliary_exams["own questions"], questions=(("Which?", "quite another colour"),))
    file.unlink()
    Journal(file, Attempt).append(replace(told, auxiliary_exams={**told.auxiliary_exams, "own questions": other}))
    assert main(["replay", str(copy), told.attempt_id]) == 1


def test_an_attempt_is_shown_with_its_questions_and_marks(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = attempts(whole, 0)[0]
    ((question, answer),) = stored.auxiliary_exams["own questions"].questions
    assert main(["attempts", str(whole), "--show", stored.attempt_id]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"    1. {question!r} {answer!r}" in shown
    assert "exam        own questions" in shown
    assert "    question    stone-20/colour" in shown
    assert any(line.startswith("rating      rubric: length ") for line in shown)
    assert main(["attempts", str(whole)]) == 0
    listed = capsys.readouterr().out
    assert "  unscored 12 ×  no own questions" in listed
    assert "24 attempts: 12 scored, 12 unscored" in listed


def test_a_probe_of_the_run_s_own_tasks_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of those tested on, too."""
    for name, offset in (("train", 3), ("validation", 9), ("test", 12)):
        assert fit(tmp_path, settings(tiny_folder, tmp_path / name, probe(offset))) == 1
        assert "are trained or tested on in this run, for instance" in capsys.readouterr().err
        assert not list((tmp_path / name).glob("round_*/attempts*"))


def test_a_rubric_alone_runs_without_a_thing_adapted(tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "rubric"
    assert fit(tmp_path, settings(tiny_folder, run_dir, rubric(True))) == 0
    made = attempts(run_dir, 0)
    assert len(made) == 12
    assert all(a.plan is None and a.after is None and a.before is None and a.adapt_seconds == 0 for a in made)
    assert {row.reward for row in buffer(run_dir, 0)} <= {4.0, 8.0, 12.0, 16.0, 20.0}
    assert main(["replay", str(run_dir), made[0].attempt_id]) == 0
