"""The lock on a run directory: one holder at a time, and none once the holder has crashed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seal_lightning.core.errors import RunError
from seal_lightning.storage.run_dir import RunLock

HOLD = """
import sys
from pathlib import Path
from seal_lightning.storage.run_dir import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_run_lock_has_one_holder_and_frees_at_a_crash(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = RunLock(tmp_path)
        with pytest.raises(RunError, match="is locked by another process"):
            lock.acquire()
        holder.kill()
        holder.wait()
    lock.acquire()
    lock.release()
    lock.release()


def test_run_lock_release_unlocks_despite_a_fork(tmp_path: Path) -> None:
    """A data loader's worker inherits the open lock file."""
    lock = RunLock(tmp_path)
    lock.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        lock.release()
        again = RunLock(tmp_path)
        again.acquire()
        again.release()
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


def test_run_lock_reports_an_impossible_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="could not be written"):
        RunLock(tmp_path / "file").acquire()
