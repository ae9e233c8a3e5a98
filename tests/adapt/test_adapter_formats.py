"""Adapters in other programs: in peft, in transformers, and by format in vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_folders import write_adapted
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from seal_lightning.adapt.adapters import merge_adapters
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.core import AdapterSpec
from seal_lightning.generation.vllm.served_adapters import LORA_RANKS
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, load_adapter

RULES = json.loads((Path(__file__).parents[1] / "golden" / "vllm_lora_format.json").read_text())


@pytest.fixture(params=["all-linear", "some layers, rsLoRA", "merged of two"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    every = AdapterSpec(rank=8, alpha=16.0, target_modules="all-linear")
    some = AdapterSpec(rank=4, alpha=4.0, target_modules=("v_proj", "down_proj"), layers=(1,), use_rslora=True)
    if request.param == "all-linear":
        return write_adapted(tmp_path / "a", tiny_folder, spec=every)
    one = write_adapted(tmp_path / "b", tiny_folder, spec=some)
    if request.param != "merged of two":
        return one
    other = write_adapted(tmp_path / "a", tiny_folder, spec=every)
    return merge_adapters([(one, 1.0), (other, 0.5)], str(tmp_path / "sum"), max_rank=None)


@pytest.fixture
def ids(tiny: LanguageModel) -> Tensor:
    return torch.tensor([tiny.encode_text("The stone 3 is red. Stone 4 is blue.")])


@pytest.fixture
def expected(folder: AdaptedFolder, tiny: LanguageModel, ids: Tensor) -> Tensor:
    """Our own logits, which are not the base model's."""
    with torch.no_grad():
        unadapted = tiny.model(ids).logits
        with applied(tiny.model, load_adapter(tiny.model, folder.adapter)):
            adapted: Tensor = tiny.model(ids).logits
    assert (adapted - unadapted).abs().max() > 0.01
    return adapted


@torch.no_grad()
def test_adapter_loads_in_peft(folder: AdaptedFolder, tiny_folder: Path, ids: Tensor, expected: Tensor) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder.adapter)
    assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    by_itself = AutoPeftModelForCausalLM.from_pretrained(folder.adapter)  # which finds the base
    assert torch.allclose(by_itself(ids).logits, expected, atol=1e-5)


@torch.no_grad()
def test_adapter_loads_in_transformers(folder: AdaptedFolder, tiny_folder: Path, ids: Tensor, expected: Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.load_adapter(str(folder.adapter))
    assert torch.allclose(model(ids).logits, expected, atol=1e-5)


def problems_of_vllm(adapter: Path, architecture: str = "LlamaForCausalLM") -> list[str]:
    """What vLLM would refuse of a folder, by its own rules as RULES has them."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
    found = [f"{name} is missing" for name in RULES["required_config_fields"] if name not in config]
    found += [f"{name} is on" for name in RULES["must_be_off"] if config.get(name)]
    found += [] if config.get("bias", "none") in RULES["bias"] else ["bias"]
    found += [] if config["r"] <= max(RULES["max_lora_ranks"]) else ["rank"]
    weights = adapter / RULES["weights_file"]
    if not weights.is_file():
        return [*found, "no weights"]
    halves: dict[str, set[str]] = {}
    with safe_open(weights, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            ending = next((e for e in RULES["tensor_endings"] if key.endswith(f".{e}")), None)
            if ending is None or not key.startswith(RULES["tensor_prefix"]):
                found.append(f"{key} is unsupported")
                continue
            name = key.removeprefix(RULES["tensor_prefix"]).removesuffix(f".{ending}")
            halves.setdefault(name, set()).add(ending)
            shape = file.get_slice(key).get_shape()
            if shape[0 if "lora_A" in ending else 1] != config["r"]:
                found.append(f"{key} is of rank {shape}")
            if name.rsplit(".", 1)[-1] not in RULES["linear_layers"][architecture]:
                found.append(f"{name} is not an expected module")
    return found + [f"{name} has one half" for name, of_module in halves.items() if len(of_module) != 2]


def test_adapter_follows_the_format_of_vllm(folder: AdaptedFolder) -> None:
    assert problems_of_vllm(folder.adapter) == []
    assert tuple(RULES["max_lora_ranks"]) == LORA_RANKS


def test_format_rules_reject_what_vllm_rejects(tmp_path: Path, tiny_folder: Path) -> None:
    """Otherwise the test above could not fail."""
    good = write_adapted(tmp_path / "a", tiny_folder).adapter
    config = json.loads((good / "adapter_config.json").read_text())
    for change, problem in (
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is on"),
        ({"use_dora": True}, "use_dora is on"),
        ({"bias": "all"}, "bias"),
        ({"r": 1024}, "rank"),
    ):
        copy = Path(shutil.copytree(good, tmp_path / problem))
        (copy / "adapter_config.json").write_text(json.dumps({**config, **change}))
        assert problem in problems_of_vllm(copy)
    assert "base_model.model" in str(problems_of_vllm(copy)[-1])  # and its weights are of another rank
