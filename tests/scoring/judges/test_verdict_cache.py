"""Decisions on the disk: whole or not there, shared, bounded, and no failure among them."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.core import Judgement, JudgeQuestion
from seal_lightning.scoring.judges import CachedJudge
from seal_lightning.scoring.judges.cached_judge import Report
from seal_lightning.scoring.judges.tally import JudgeTally
from seal_lightning.scoring.judges.verdict_cache import VerdictCache

QUESTION = JudgeQuestion(instruction="Is it red?", material=(("Thing", "a brick"),), options=("yes", "no"))
IDENTITY = {"judge": "test"}
KEY = VerdictCache.key(IDENTITY, QUESTION)
YES = Judgement(option="yes", reason="it is", probabilities=(0.75, 0.25))


class Counting(CachedJudge):
    """Decides yes, and counts how often it is asked."""

    def __init__(self, folder: Path, option: str | None = "yes") -> None:
        super().__init__(JudgeTally("Counting", max_unscored=1.0, min_questions=1000), str(folder))
        self.option = option
        self.asked: list[JudgeQuestion] = []

    identity = IDENTITY

    def ask(self, questions: Sequence[JudgeQuestion], report: Report) -> None:
        for question in questions:
            self.asked.append(question)
            report(question, Judgement(option=self.option, reason="down" if self.option is None else ""))


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_cache_round_trips(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put(KEY, YES)
    assert cache.get(KEY, QUESTION) == YES
    assert VerdictCache(tmp_path).get(KEY, QUESTION) == YES
    (path,) = stored(tmp_path)
    assert "brick" not in path.read_text(), "texts are not stored"


@pytest.mark.parametrize(
    "other",
    [
        replace(QUESTION, instruction="Is it blue?"),
        replace(QUESTION, material=(("Thing", "a brick "),)),
        replace(QUESTION, material=(("Other", "a brick"),)),
        replace(QUESTION, material=(("Thing", "a"), (" ", "brick"))),
        replace(QUESTION, options=("no", "yes")),
        replace(QUESTION, material=(("Thing", "\ud800"),)),
    ],
)
def test_cache_key_depends_on_every_part(other: JudgeQuestion) -> None:
    assert VerdictCache.key(IDENTITY, other) != KEY
    assert VerdictCache.key({"judge": "another"}, QUESTION) != KEY


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"\xff",
        b'{"reason": ""}',
        b"[" * 100_000,
        b'{"option": "maybe", "reason": ""}',
        b'{"option": null, "reason": "down"}',
        b'{"option": "yes", "reason": "", "probabilities": [0.5]}',
        b'{"option": "yes", "reason": 3}',
    ],
    ids=range(10),
)
def test_cache_damaged_entry_is_judged_again(damage: bytes, tmp_path: Path) -> None:
    judge = Counting(tmp_path)
    judge.decide([QUESTION])
    (path,) = stored(tmp_path)
    path.write_bytes(damage)
    assert judge.decide([QUESTION])[0].option == "yes"
    assert len(judge.asked) == 2
    assert Counting(tmp_path).decide([QUESTION])[0].option == "yes", "and is whole again"
    assert json.loads(path.read_text())["option"] == "yes"


def test_cache_keeps_no_failure(tmp_path: Path) -> None:
    Counting(tmp_path, None).decide([QUESTION])
    assert not stored(tmp_path)
    up = Counting(tmp_path)
    assert up.decide([QUESTION])[0].option == "yes"
    assert len(up.asked) == 1


def test_cache_full_disk_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    judge = Counting(tmp_path / "file")
    assert [j.option for j in judge.decide([QUESTION, replace(QUESTION, instruction="?")])] == ["yes", "yes"]
    assert sum("not cached" in record.message for record in caplog.records) == 1


def test_cache_is_shared_by_threads(tmp_path: Path) -> None:
    questions = [replace(QUESTION, instruction=str(i)) for i in range(20)]
    judges = [Counting(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=judge.decide, args=[questions]) for judge in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(tmp_path)) == 20
    assert not list(tmp_path.rglob("*.tmp"))


def _write(folder: Path, letter: str) -> None:
    cache = VerdictCache(folder)
    for _ in range(100):
        cache.put(KEY, replace(YES, reason=letter * 400))


def test_cache_is_shared_by_processes(tmp_path: Path) -> None:
    """While two write the same entry again and again, a reader sees one or the other, whole."""
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write, args=(tmp_path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    cache, seen = VerdictCache(tmp_path), set()
    while any(writer.is_alive() for writer in writers):
        found = cache.get(KEY, QUESTION)
        assert found is not None or not seen
        if found is not None:
            seen.add(found.reason)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen <= {"a" * 400, "b" * 400}
    assert seen
