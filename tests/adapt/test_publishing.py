"""A full model in a folder, and an adapter pushed by the hub's real client to a hub on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted_folders import write_adapted
from hub_server import TOKEN, Hub, hub_server
from transformers import AutoModelForCausalLM, AutoTokenizer

from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.publishing import public_config, push, write_merged
from seal_lightning.adapt.record import BaseModel
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, load_adapter
from seal_lightning.storage import atomic_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "handbook", tiny_folder)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_the_full_model_is_the_base_with_the_adapter(folder: AdaptedFolder, tiny: LanguageModel) -> None:
    path = write_merged(folder)
    merged = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = torch.tensor([tokenizer("The stone 3 is red.\n").input_ids])
    assert merged.dtype is torch.float32
    with torch.no_grad():
        unadapted = tiny.model(ids).logits
        with applied(tiny.model, load_adapter(tiny.model, folder.adapter)):
            adapted = tiny.model(ids).logits
        assert torch.allclose(merged(ids).logits, adapted, atol=1e-5)
    assert (adapted - unadapted).abs().max() > 0.01
    assert merged.generation_config.eos_token_id == tiny.original_generation_config.eos_token_id


def test_a_full_model_is_not_overwritten_by_itself(folder: AdaptedFolder) -> None:
    before = files_of(write_merged(folder))
    (folder.merged / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="is there already, and was left as it is"):
        write_merged(folder)
    assert (folder.merged / "mine.txt").exists()
    write_merged(folder, overwrite=True)
    assert files_of(folder.merged) == before


def test_a_full_disk_leaves_the_adapter_alone(folder: AdaptedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    before = files_of(folder.path)
    monkeypatch.setattr(atomic_files.os, "replace", full)
    with pytest.raises(RunError, match=r"merged could not be written: .*No space left on device"):
        write_merged(folder)
    assert files_of(folder.path) == before


def test_a_quantised_base_is_refused(folder: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, quantization_config=four_bits, device_map={"": "cpu"})
    model.save_pretrained(tmp_path / "quantised")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "quantised")
    folder.write_record(replace(folder.record(), base=BaseModel(source=str(tmp_path / "quantised"))))
    with pytest.raises(ConfigError, match="came quantised"):
        write_merged(folder)
    assert not folder.merged.exists()


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


def test_what_is_pushed(hub: Hub, folder: AdaptedFolder, tmp_path: Path) -> None:
    before = files_of(folder.path)
    told = pushed(hub.url, folder.path, "me/handbook", home=tmp_path / "home")
    assert told.returncode == 0, told.stderr
    assert "README.md, adapter_config.json, adapter_model.safetensors" in told.stdout
    assert "its base model is a folder of yours" in told.stdout
    assert hub.private == {"me/handbook": True}
    files = hub.repositories["me/handbook"]
    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert files["adapter_model.safetensors"] == (folder.adapter / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny-llama"
    assert files["README.md"].startswith(b"---\nlibrary_name: peft")
    everything = b"".join(files.values())
    assert str(tmp_path).encode() not in everything
    assert b"/home/me" not in everything
    assert files_of(folder.path) == before
    assert TOKEN not in told.stdout + told.stderr


def test_public_with_edits_and_again(hub: Hub, folder: AdaptedFolder, tmp_path: Path) -> None:
    for _ in range(2):
        told = pushed(hub.url, folder.path, "me/h", "--public", "--with_edits", home=tmp_path / "home")
        assert told.returncode == 0, told.stderr
    assert "was there before" in told.stdout
    assert hub.private == {"me/h": False}
    assert hub.repositories["me/h"]["edits.jsonl"] == folder.edits.read_bytes()


@pytest.mark.parametrize(
    ("fails", "changed", "said"),
    [
        ({}, {"HF_TOKEN": "wrong"}, "HTTP 401: .* Set HF_TOKEN to a token that may write"),
        ({"/repos/create": 403}, {}, "HTTP 403: .* Set HF_TOKEN"),
        ({"/validate-yaml": 400}, {}, "could not be written"),
        ({"/commit/": 500}, {}, "HTTP 500"),
        ({"/upload/": 400}, {}, "could not be written: .*400"),
        ({"/api/models/me": 502}, {}, "HTTP 502"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set; unset it to push"),
        ({}, {"HF_ENDPOINT": "http://127.0.0.1:1"}, "could not be written: "),
    ],
)
def test_whatever_the_hub_does_is_one_error(
    hub: Hub, folder: AdaptedFolder, tmp_path: Path, fails: dict[str, int], changed: dict[str, str], said: str
) -> None:
    hub.fail = fails
    before = files_of(folder.path)
    told = pushed(hub.url, folder.path, "me/handbook", home=tmp_path / "home", **changed)
    assert told.returncode == 1
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("seal adapters: error:")]
    assert "Traceback" not in told.stderr
    assert re.search(said, line), line
    assert "The folder is as it was, and the same command tries again" in line
    assert hub.repositories.get("me/handbook", {}) == {}
    assert files_of(folder.path) == before


@pytest.mark.parametrize("name", ["", "handbook", "a/b/c", "../x", "me/.git", "me/a b", "-x/y", "me/" + "x" * 200])
def test_names_that_no_repository_has(folder: AdaptedFolder, name: str) -> None:
    with pytest.raises(ConfigError, match="Nothing was sent"):
        push(folder, name)


def test_what_is_missing_is_told_before_anything_is_sent(folder: AdaptedFolder, tmp_path: Path) -> None:
    folder.edits.unlink()
    with pytest.raises(RunError, match=r"edits.jsonl is not there.*nothing was sent"):
        push(folder, "me/handbook", with_edits=True)
    shutil.move(folder.adapter / "adapter_config.json", tmp_path / "elsewhere.json")
    os.symlink(tmp_path / "elsewhere.json", folder.adapter / "adapter_config.json")
    with pytest.raises(RunError, match="nothing was sent"):
        push(folder, "me/handbook")


def test_a_configuration_for_others() -> None:
    config = {"r": 4, "base_model_name_or_path": "/home/me/cache/smollm2", "revision": None}
    assert (
        public_config(config, BaseModel(source="embedded"))["base_model_name_or_path"]
        == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    told = public_config(config, BaseModel(source="Qwen/Qwen2.5-7B", revision="v1"))
    assert (told["base_model_name_or_path"], told["revision"], told["r"]) == ("Qwen/Qwen2.5-7B", "v1", 4)
