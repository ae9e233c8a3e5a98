"""Interrupted at every phase boundary and a step before and behind it, a run ends with the same order and the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_end_to_end import assert_same_run, attempts, config, fit

from seal_lightning.cli.main import main
from seal_lightning.storage.run_dir import RunDir

E_STEP_BATCHES, M_STEP_BATCHES = 2, 9
PLACES = [
    (what, epoch, number)
    for epoch in range(4)
    for last in [E_STEP_BATCHES if epoch % 2 == 0 else M_STEP_BATCHES]
    for what, number in [
        *[("epoch", 1), ("batch", 1), ("batch", 2)],
        *[("batch_end", last - 1), ("batch", last), ("batch_end", last), ("epoch_end", 1)],
    ]
    if (what, number) != ("batch_end", 1)  # the same place as the second batch's start
]
BOUNDARIES = list(dict.fromkeys(f"{what}:{epoch}:{number}" for what, epoch, number in PLACES))


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(run_dir.parent, config(tiny_folder, run_dir)) == 0
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("stop", BOUNDARIES)
def test_interrupted_run_resumes_to_the_same_end(
    stop: str, uninterrupted: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "halved"
    monkeypatch.setenv("SEAL_TEST_INTERRUPT", stop)
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, config(tiny_folder, run_dir))
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    begun = RunDir(run_dir).holds_a_run
    assert (main(["fit", "--resume", str(run_dir)]) if begun else fit(tmp_path, config(tiny_folder, run_dir))) == 0
    assert_same_run(run_dir, uninterrupted)
    for round_index in (0, 1):
        ids = [[a.attempt_id for a in attempts(folder, round_index)] for folder in (run_dir, uninterrupted)]
        assert ids[0] == ids[1]
