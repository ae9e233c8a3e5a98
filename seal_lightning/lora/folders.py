"""LoRA adapters as standard PEFT folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from seal_lightning.errors import ModelError, shown
from seal_lightning.lora.adapter import LoraAdapter, linear_shape, target_modules
from seal_lightning.types import AdapterSpec

PEFT_PREFIX = "base_model.model."


def save_adapter(adapter: LoraAdapter, folder: Path, base_model: str) -> None:
    """Write the adapter as a standard PEFT folder, which ``PeftModel.from_pretrained`` loads.

    ``base_model`` is the hub id or folder the adapter belongs to.
    """
    from peft import LoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    spec = adapter.spec
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.use_rslora,
        target_modules=sorted(adapter.weights),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    state = {}
    for name, (a, b) in adapter.weights.items():
        state[f"{PEFT_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        state[f"{PEFT_PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_spec.json").write_text(json.dumps(asdict(spec), indent=1))


def load_adapter(model: PreTrainedModel, folder: Path) -> LoraAdapter:
    """Read a LoRA adapter from a PEFT folder, checked for keys, shapes and finiteness.

    Raises :class:`ModelError` when a weight is missing, unknown, misshapen or not finite.
    """
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    spec = AdapterSpec(
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=float(config["lora_dropout"]),
        target_modules=tuple(config["target_modules"]),
        use_rslora=bool(config.get("use_rslora", False)),
    )
    state = load_file(folder / "adapter_model.safetensors")
    weights = {}
    for name in target_modules(model, spec):
        pair = []
        for letter, shape in zip("AB", _pair_shapes(model, name, spec.rank), strict=True):
            key = f"{PEFT_PREFIX}{name}.lora_{letter}.weight"
            tensor = state.pop(key, None)
            if tensor is None or tuple(tensor.shape) != shape or not tensor.isfinite().all():
                found = "missing" if tensor is None else f"{tuple(tensor.shape)}, all finite: {tensor.isfinite().all()}"
                raise ModelError(f"{folder}: {key}: expected finite weights of shape {shape}, found {found}")
            pair.append(tensor)
        weights[name] = (pair[0], pair[1])
    if state:
        raise ModelError(f"{folder}: weights for modules this model does not adapt: {shown(sorted(state)[:3])}")
    return LoraAdapter(spec=spec, weights=weights)


def _pair_shapes(model: PreTrainedModel, name: str, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    fan_out, fan_in = linear_shape(model.get_submodule(name), name)
    return (rank, fan_in), (fan_out, rank)
