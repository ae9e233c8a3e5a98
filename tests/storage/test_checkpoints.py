"""Checkpoints: complete or absent, listed by their content, and never a way to run code."""

from __future__ import annotations

import os
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seal_lightning.core.errors import RunError
from seal_lightning.core.random_state import random_state, restore_random_state
from seal_lightning.storage import atomic_files
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.checkpoints import (
    complete_checkpoints,
    manifest_path,
    newest_checkpoint,
    remove_incomplete,
    write_manifest,
)

IO = AtomicCheckpointIO()


def checkpoint(value: float) -> dict[str, Any]:
    return {
        "state_dict": {"a": torch.full((300,), value)},
        "seal": {"round": 1, "merged": []},
        "loops": {"n": [1, "x"]},
    }


def save(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / f"{name}.ckpt"
    IO.save_checkpoint(checkpoint(value), path)
    return path


def value_of(path: Path) -> float:
    return IO.load_checkpoint(path)["state_dict"]["a"][0].item()


def test_checkpoint_loads_what_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path / "new", "a", 2.5)
    loaded = IO.load_checkpoint(str(path))
    assert torch.equal(loaded["state_dict"]["a"], torch.full((300,), 2.5))
    assert loaded["loops"] == {"n": [1, "x"]}
    assert torch.load(path, weights_only=True)["seal"]["round"] == 1, "torch alone can read it"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.ckpt", "a.ckpt.json"]


def test_newest_checkpoint_goes_by_number(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        save(tmp_path, name)
    os.utime(tmp_path / "c.ckpt", (2**31, 2**31))
    assert [p.stem for p in complete_checkpoints(tmp_path)] == ["c", "a", "b"]
    save(tmp_path, "c", 2.0)
    assert [p.stem for p in complete_checkpoints(tmp_path)] == ["a", "b", "c"]
    assert newest_checkpoint(tmp_path) == tmp_path / "c.ckpt"
    assert newest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("manifest", [None, b"", b"{}", b"[]", b'{"contents":[]}', b"\xff", b"[" * 100_000])
def test_checkpoint_needs_a_valid_manifest(tmp_path: Path, manifest: bytes | None) -> None:
    first, second = save(tmp_path, "first"), save(tmp_path, "second")
    if manifest is None:
        manifest_path(second).unlink()
    else:
        manifest_path(second).write_bytes(manifest)
    assert complete_checkpoints(tmp_path) == [first]
    with pytest.raises(RunError, match="has no valid manifest"):
        IO.load_checkpoint(second)


def test_newest_checkpoint_skips_a_damaged_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = save(tmp_path, "first"), save(tmp_path, "second")
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    with pytest.raises(RunError, match="is damaged: its SHA-256 is"):
        IO.load_checkpoint(second)
    assert newest_checkpoint(tmp_path) == first
    assert "trying the checkpoint before" in caplog.text
    second.write_bytes(content[:-1])
    assert complete_checkpoints(tmp_path) == [first]


def test_checkpoint_replacement_survives_any_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at each call: what is found then loads, and a later save is as if nothing had been."""

    class Crash(BaseException):
        pass

    class CrashingOs:
        left = 0

        def __getattr__(self, name: str) -> Any:
            if name in ("unlink", "close", "path"):
                return getattr(os, name)  # what tidies up behind an exception is not what a crash leaves
            self.left -= 1
            if self.left < 0:
                raise Crash
            return getattr(os, name)

    crashing, crashes, found = CrashingOs(), 0, set()
    path = save(tmp_path, "a", 0.0)
    for calls in range(100):
        crashing.left = calls
        try:
            with monkeypatch.context() as patched:
                patched.setattr(atomic_files, "os", crashing)
                save(tmp_path, "a", 1.0 + calls)
        except Crash:
            crashes += 1
        else:
            break
        assert complete_checkpoints(tmp_path) == [path]
        found.add(value_of(path))
    assert crashes > 8
    assert 0.0 in found
    assert value_of(save(tmp_path, "a", -1.0)) == -1.0


def test_remove_incomplete_removes_lone_manifests(tmp_path: Path) -> None:
    path = save(tmp_path, "a")
    write_manifest(tmp_path / "never.ckpt", 10, "0" * 64)
    remove_incomplete(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt", "a.ckpt.json"]
    IO.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    IO.remove_checkpoint(path)


@pytest.mark.parametrize(
    "url", ["https://host/a.ckpt", "http://host/a", "s3://bucket/a", "file:///tmp/a.ckpt", "zip::a"]
)
def test_checkpoint_io_refuses_urls(url: str) -> None:
    with pytest.raises(RunError, match="is a URL"):
        IO.load_checkpoint(url)
    with pytest.raises(RunError, match="is a URL"):
        IO.save_checkpoint({}, url)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("asked", [None, True, False])
def test_load_checkpoint_runs_no_pickle(tmp_path: Path, asked: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sentinel = tmp_path / "sentinel"
    for name, write in (("zip", torch.save), ("raw", lambda value, file: pickle.dump(value, file))):
        path = tmp_path / f"{name}.ckpt"
        with atomic_files.replacing(path) as file:
            write({"state_dict": {}, "x": Payload(sentinel)}, file)
            write_manifest(path, file.size, file.sha256)
        with pytest.raises(RunError, match="is not a checkpoint of tensors"):
            IO.load_checkpoint(path, weights_only=asked)
        assert not sentinel.exists()
    torch.load(tmp_path / "zip.ckpt", weights_only=False)
    assert sentinel.exists(), "the payload would have worked"


@pytest.mark.parametrize("value", [b"bytes", np.float64(1.0), Path("a"), object(), np.zeros(2)])
def test_save_checkpoint_refuses_other_types(tmp_path: Path, value: object) -> None:
    with pytest.raises(RunError, match=r"was not written: callbacks\.mine\[0\] is a "):
        IO.save_checkpoint({"callbacks": {"mine": [value]}}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_keeps_lightnings_state(tmp_path: Path) -> None:
    kept = {
        "callbacks": {"best": torch.tensor(float("inf")), "paths": {"a": None}, "seen": OrderedDict(a=(1, 2.5))},
        "dtypes": [torch.float16, torch.device("cpu"), torch.Size([2])],
        "numbers": {1: True, "z": 1j, "s": {1, 2}},
    }
    IO.save_checkpoint(kept, tmp_path / "a.ckpt")
    assert IO.load_checkpoint(tmp_path / "a.ckpt") == kept


def test_checkpoint_keeps_random_states(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    IO.save_checkpoint({"seal": {"random_states": [random_state()]}}, path)
    drawn = (random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.randn(), random.gauss(0, 1))
    restore_random_state(IO.load_checkpoint(path)["seal"]["random_states"][0])
    assert drawn == (random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.randn(), random.gauss(0, 1))
