"""What a round's edits chose: counted over edits, those that were kept beside those that were tried."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from test_round_report import candidate

from seal_lightning.callbacks import ChoiceShares
from seal_lightning.callbacks.choice_shares import choice_counts
from seal_lightning.core import BufferRow, SelfEdit


def edit(index: int, log_prob: float | None = -1.0, **choices: str) -> SelfEdit:
    return SelfEdit(task_id="t", edit_index=index, text="x", log_prob=log_prob, directives=choices)


def row(index: int) -> BufferRow:
    return BufferRow(task_id="t", edit_index=index, prompt="p", text="x", token_ids=(), reward=1.0)


class Recorder:
    """A module that is printed to, and a logger."""

    round_index = 3

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.metrics: dict[str, float] = {}
        self.step = -1

    def print(self, line: str) -> None:
        self.lines.append(line)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics, self.step = metrics, step


def report(edits: list[SelfEdit], kept: list[int]) -> Recorder:
    recorder = Recorder()
    trainer: Any = SimpleNamespace(logger=recorder)
    candidates = [candidate(one, 1 + one.edit_index) for one in edits]
    ChoiceShares().on_buffer(trainer, recorder, candidates, [row(i) for i in kept])  # type: ignore[arg-type]
    return recorder


def test_choice_shares_of_tried_and_kept_edits() -> None:
    edits = [edit(0, rate=" 1", size="a"), edit(1, rate=" 2", size="a"), edit(2, rate=" 2", size="b")]
    found = report(edits, [2])
    assert found.lines == [
        "Round 3: rate: 2 kept 1 of 2, 1 kept 0 of 1",
        "Round 3: size: a kept 0 of 2, b kept 1 of 1",
    ]
    assert found.step == 3
    assert found.metrics == {
        "choices/rate=1/tried": 1 / 3,
        "choices/rate=2/tried": 2 / 3,
        "choices/size=a/tried": 2 / 3,
        "choices/size=b/tried": 1 / 3,
        "choices/rate=1/kept": 0.0,
        "choices/rate=2/kept": 1.0,
        "choices/size=a/kept": 0.0,
        "choices/size=b/kept": 1.0,
    }


def test_choice_counts_skip_other_writers_and_free_text() -> None:
    assert choice_counts([edit(0, None, split="lines"), edit(1)]) == {}
    assert choice_counts([edit(0, None, split="lines"), edit(1, x="y")]) == {"x": Counter(y=1)}
    silent = report([edit(0, None, split="lines")], [0])
    assert (silent.lines, silent.metrics) == ([], {})
