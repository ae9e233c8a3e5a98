"""kill -9 at random instants: nothing acknowledged is lost, nothing is doubled, and the run ends with the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from children import Child, side_by_side
from injected import acknowledged
from test_end_to_end import assert_same_run, attempts, config, fit

from seal_lightning.storage.run_dir import RunDir


def settings_of(folder: Path, run_dir: Path) -> dict:
    settings = config(folder, run_dir, candidates_per_call=2)
    settings["trainer"]["callbacks"] = [settings["trainer"]["callbacks"][0], {"class_path": "injected.Faults"}]
    return settings


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert fit(run_dir.parent, settings_of(tiny_folder, run_dir)) == 0
    return run_dir


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("phase", "temporary", "kills"),
    [
        ("checkpoint", None, 1),  # the two others are among the twenty
        *[pytest.param(phase, None, 20, marks=SLOW) for phase in ("e_step", "m_step", "checkpoint")],
        pytest.param("checkpoint", "/dev/shm", 20, marks=SLOW),
    ],
)
def test_killed_run_resumes_to_the_same_bits(
    phase: str,
    temporary: str | None,
    kills: int,
    uninterrupted: Path,
    tiny_folder: Path,
    tmp_path: Path,
    counted: Callable[[int], int],
) -> None:
    if temporary is not None and not Path(temporary).is_dir():
        pytest.skip("there is no other file system for temporaries")
    environment = {"TMPDIR": temporary} if temporary else {}
    times = counted(kills) if kills > 1 else 1
    shares = [times - times // 2, times // 2]

    def chain(worker: int) -> None:
        kill_often(f"{phase}:{worker}", shares[worker], uninterrupted, tiny_folder, tmp_path / f"{worker}", environment)

    side_by_side(chain, [worker for worker in (0, 1) if shares[worker]])


def kill_often(
    fault: str, kills: int, uninterrupted: Path, model: Path, folder: Path, environment: Mapping[str, str]
) -> None:
    """Runs that are killed and resumed until they end, one after the other until there were enough kills."""
    number = starts = 0
    folder.mkdir()
    while kills > 0:
        number += 1
        run_dir = folder / f"run{number}"
        config_file = folder / "settings.yaml"
        config_file.write_text(yaml.safe_dump(settings_of(model, run_dir)))
        code = -9
        while code == -9:
            starts += 1
            planted = {"SEAL_TEST_FAULT": f"{fault}{starts}"} if kills > 0 else {}
            started = RunDir(run_dir).holds_a_run
            args = ["fit", "--resume", str(run_dir)] if started else ["fit", "-c", str(config_file)]
            child = Child(args, folder / f"{starts}.log", planted | environment)
            code = child.wait()
            kills -= code == -9
            told = acknowledged(run_dir)
            stored = Counter(a.attempt_id for r in (0, 1) for a in attempts(run_dir, r))
            assert set(told) <= stored.keys(), "an acknowledged attempt was lost"
            assert max(stored.values(), default=1) == 1, "an attempt was stored twice"
        assert code == 0, child.printed()[-3000:]
        assert max(Counter(told).values()) == 1
        assert_same_run(run_dir, uninterrupted)
        assert not list(run_dir.rglob(".*.tmp")), "a temporary was left behind"
