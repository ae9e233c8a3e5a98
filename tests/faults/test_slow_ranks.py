"""A rank that is slower than the other does less, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import end_all, ranks
from test_end_to_end import attempts
from test_signals import settings_of, write

from seal_lightning.core import BufferRow, RankPhase
from seal_lightning.storage.journal import RecordFile


@pytest.mark.slow
def test_free_rank_takes_a_slow_ranks_work(tiny_folder: Path, tmp_path: Path) -> None:
    runs = {}
    for slow in (None, 0, 1):
        run_dir = tmp_path / f"slow-{slow}"
        settings = settings_of(tiny_folder, run_dir, rounds=1)
        planted = {} if slow is None else {slow: {"SEAL_TEST_FAULT": "slow:"}}
        folder = tmp_path / f"logs-{slow}"
        folder.mkdir()
        children = ranks(["fit", "-c", str(write(folder, settings))], folder, environments=planted)
        try:
            assert [child.wait(90) for child in children] == [0, 0], children[0].printed()[-2000:]
        finally:
            end_all(children)
        figures = RecordFile(run_dir / "round_0" / "ranks.e_step.jsonl", RankPhase).read()
        assert sum(one.num_attempts for one in figures) == len(attempts(run_dir, 0)) == 24
        assert "E-step on 2 ranks" in children[0].printed()
        if slow is not None:
            assert figures[1 - slow].num_attempts > figures[slow].num_attempts
        rows = RecordFile(run_dir / "round_0" / "accepted.jsonl", BufferRow).read()
        scored = {a.attempt_id: (a.reward, a.edit.text) for a in attempts(run_dir, 0)}
        runs[slow] = (rows, scored)
    assert runs[0] == runs[1] == runs[None], "to the last bit, whoever does what"
