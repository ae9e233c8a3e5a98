"""kill -9 at random instants: nothing acknowledged is lost, nothing is doubled, and the run ends with the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from children import Child
from injected import acknowledged
from test_end_to_end import assert_same_run, attempts, config, fit

KILLS = 20


def settings_of(folder: Path, run_dir: Path) -> dict:
    settings = config(folder, run_dir, candidates_per_call=2)
    settings["trainer"]["callbacks"] = [settings["trainer"]["callbacks"][0], {"class_path": "injected.Faults"}]
    return settings


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(run_dir.parent, settings_of(tiny_folder, run_dir)) == 0
    return run_dir


@pytest.mark.parametrize(
    ("phase", "temporary"), [("e_step", None), ("m_step", None), ("checkpoint", None), ("checkpoint", "/dev/shm")]
)
def test_kill_9(
    phase: str,
    temporary: str | None,
    uninterrupted: Path,
    tiny_folder: Path,
    tmp_path: Path,
    counted: Callable[[int], int],
) -> None:
    environment = {"TMPDIR": temporary} if temporary else {}
    kills = seed = chain = 0
    while kills < counted(KILLS):
        chain += 1
        run_dir = tmp_path / f"chain{chain}"
        config_file = tmp_path / "settings.yaml"
        config_file.write_text(yaml.safe_dump(settings_of(tiny_folder, run_dir)))
        code = -9
        while code == -9:
            seed += 1
            fault = {"SEAL_TEST_FAULT": f"{phase}:{seed}"} if kills < counted(KILLS) else {}
            started = any(run_dir.glob("round_*")) or (run_dir / "checkpoints").exists()
            args = ["fit", "--resume", str(run_dir)] if started else ["fit", "-c", str(config_file)]
            child = Child(args, tmp_path / f"{chain}-{seed}.log", fault | environment)
            code = child.wait()
            kills += code == -9
            told = acknowledged(run_dir)
            stored = Counter(a.attempt_id for r in (0, 1) for a in attempts(run_dir, r))
            assert set(told) <= stored.keys(), "an acknowledged attempt was lost"
            assert max(stored.values(), default=1) == 1, "an attempt was stored twice"
        assert code == 0, child.printed()[-3000:]
        assert max(Counter(told).values()) == 1
        assert_same_run(run_dir, uninterrupted)
        assert not list(run_dir.rglob(".*.tmp")), "a temporary was left behind"
