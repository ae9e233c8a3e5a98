"""A disk that refuses, at each call: the run ends with one clear error, what was there loads, and the run can go on."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_end_to_end import attempts, buffer, config, fit

from seal_lightning.cli.main import main
from seal_lightning.storage import atomic_files, journal
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.checkpoints import complete_checkpoints, newest_checkpoint
from seal_lightning.storage.run_dir import RunDir

FAULTS = (errno.ENOSPC, errno.EACCES, errno.EROFS)
CALLS = {"open", "write", "fsync", "replace", "mkdir", "ftruncate"}


class FaultyOs:
    """The module ``os`` whose n-th changing call fails, and every one after it: a full disk stays full."""

    def __init__(self, fails_at: int | None, code: int) -> None:
        self.fails_at = fails_at
        self.code = code
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.fails_at is not None and len(self.calls) > self.fails_at:
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call


def settings_of(folder: Path, run_dir: Path) -> dict:
    settings = config(folder, run_dir, rounds=1, num_edits=2)
    settings["trainer"]["callbacks"] = settings["trainer"]["callbacks"][:1]
    settings["trainer"]["logger"] = False
    settings["data"]["train"]["init_args"]["num_tasks"] = 1
    settings["model"]["reinforce"] |= {"num_epochs": 1, "batch_size": 1}
    del settings["data"]["test"]
    return settings


def run_with(faulty: FaultyOs, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    with monkeypatch.context() as patched:
        for module in (atomic_files, journal):
            patched.setattr(module, "os", faulty)
        return fit(tmp_path, settings)


@pytest.mark.slow
def test_run_survives_any_failed_write(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    whole = tmp_path / "whole"
    counting = FaultyOs(None, 0)
    assert run_with(counting, settings_of(tiny_folder, whole), tmp_path, monkeypatch) == 0
    assert set(counting.calls) == CALLS
    codes = FAULTS if request.config.getoption("--release") else None
    for number in range(len(counting.calls)):  # about 70
        for code in codes or (FAULTS[number % 3],):
            run_dir = tmp_path / f"run{number}-{code}"
            settings = settings_of(tiny_folder, run_dir)
            capsys.readouterr()
            start = time.monotonic()
            assert run_with(FaultyOs(number, code), settings, tmp_path, monkeypatch) == 1, counting.calls[number]
            assert time.monotonic() - start < 10
            said = capsys.readouterr().err
            assert os.strerror(code) in said
            assert str(run_dir) in said
            assert "Traceback" not in said
            for checkpoint in complete_checkpoints(run_dir / "checkpoints"):
                assert AtomicCheckpointIO().load_checkpoint(checkpoint)["seal"]["rounds"] == 1
            if number % 4:
                continue  # to go on with every one takes too long
            begun = RunDir(run_dir).holds_a_run
            going_on = ["fit", "--resume", str(run_dir)] if begun else ["fit", "-c", str(tmp_path / "again.yaml")]
            (tmp_path / "again.yaml").write_text(yaml.safe_dump(settings))
            assert main(going_on) == 0
            assert [a.attempt_id for a in attempts(run_dir, 0)] == [a.attempt_id for a in attempts(whole, 0)]
            assert buffer(run_dir, 0) == buffer(whole, 0)
            assert not list(run_dir.rglob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own of the size asked for; again with another size, the same one made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def of_size(size: str) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size}"
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if result.returncode != 0:
            pytest.skip("this user may not mount a file system")
        mounted = True
        return folder

    yield of_size
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", ["4k", "40k", "120k", "200k", "280k"])
def test_run_survives_a_full_disk(
    size: str, small_disk: Callable[[str], Path], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Everything that writes meets it here, TensorBoard too."""
    run_dir = small_disk(size) / "run"
    settings = settings_of(tiny_folder, run_dir)
    settings["trainer"]["logger"] = True
    assert fit(tmp_path, settings) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert str(run_dir) in said
    assert "Traceback" not in said
    newest = newest_checkpoint(run_dir / "checkpoints")
    assert newest is None or AtomicCheckpointIO().load_checkpoint(newest)
    small_disk("50m")
    begun = RunDir(run_dir).holds_a_run
    assert main(["fit", "--resume", str(run_dir)] if begun else ["fit", "-c", str(tmp_path / "run.yaml")]) == 0
    assert len(attempts(run_dir, 0)) == 2
    assert not list(run_dir.rglob(".*.tmp"))
