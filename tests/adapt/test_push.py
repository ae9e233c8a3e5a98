"""An adapter pushed by the hub's real client to a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from adapted_folders import write_adapted
from hub_server import TOKEN, Hub, hub_server

from seal_lightning.adapt.adapters import push
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.core.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "handbook", tiny_folder)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


def pushed(hub_url: str, folder: Path, *options: str, home: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """``seal adapters push`` in a process of its own: the client reads its environment once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        **changed,
    }
    command = [sys.executable, "-m", "seal_lightning", "adapters", "push", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=ROOT)


def test_push_sends_three_files_without_local_paths(hub: Hub, folder: AdaptedFolder, tmp_path: Path) -> None:
    done = pushed(hub.url, folder.path, "me/handbook", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert hub.private == {"me/handbook": True}
    files = hub.repositories["me/handbook"]
    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert files["adapter_model.safetensors"] == (folder.adapter / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny-llama"
    assert files["README.md"].startswith(b"---\nlibrary_name: peft")
    everything = b"".join(files.values())
    assert str(tmp_path).encode() not in everything
    assert b"/home/me" not in everything
    assert TOKEN not in done.stdout + done.stderr


def test_push_can_be_public_and_repeated(hub: Hub, folder: AdaptedFolder, tmp_path: Path) -> None:
    for _ in range(2):
        done = pushed(hub.url, folder.path, "me/h", "--public", "--with_edits", home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
    assert hub.private == {"me/h": False}
    assert hub.repositories["me/h"]["edits.jsonl"] == folder.edits.read_bytes()


@pytest.mark.parametrize(
    ("fails", "changed", "said"),
    [
        ({}, {"HF_TOKEN": "wrong"}, "401"),
        ({"/commit/": 500}, {}, "500"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "Offline"),
        ({}, {"HF_ENDPOINT": "http://127.0.0.1:1"}, "Connect"),
    ],
)
def test_push_reports_a_refusal_in_one_line(
    hub: Hub, folder: AdaptedFolder, tmp_path: Path, fails: dict[str, int], changed: dict[str, str], said: str
) -> None:
    hub.fail = fails
    done = pushed(hub.url, folder.path, "me/handbook", home=tmp_path / "home", **changed)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("seal adapters: error:")]
    assert "Traceback" not in done.stderr
    assert said in line, line
    assert "repeat the command" in line
    assert hub.repositories.get("me/handbook", {}) == {}


def test_push_raises_for_an_invalid_name_or_a_link(folder: AdaptedFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Check the name"):
        push(folder, "a/b/c")
    os.rename(folder.edits, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder.edits)
    with pytest.raises(RunError, match="nothing was sent"):
        push(folder, "me/handbook", with_edits=True)
