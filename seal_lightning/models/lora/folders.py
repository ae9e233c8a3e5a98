"""LoRA adapters as standard PEFT folders. What is read is checked first, since an adapter may come from anybody."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ModelError, shown
from seal_lightning.core.names import is_url
from seal_lightning.models.lora.adapter import LoraAdapter, linear_shape, target_modules
from seal_lightning.storage.atomic_files import safetensors_refusals

PEFT_PREFIX = "base_model.model."
# Fields of PEFT that do not change what the weights do.
_WITHOUT_MEANING = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}

_ModuleName = Annotated[str, Field(pattern="^[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*$", max_length=200)]
"""Plain names only: PEFT takes other strings for regular expressions, some of which never finish."""


class _PeftConfig(BaseModel):
    """``adapter_config.json``. Fields that are not listed must be unset, because their meaning is not implemented here."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: int = Field(ge=1, le=4096)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: (
        Literal["all-linear"] | _ModuleName | Annotated[list[_ModuleName], Field(min_length=1, max_length=10_000)]
    )
    layers_to_transform: int | list[int] | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none"] = "none"
    init_lora_weights: Literal[True, False, "gaussian", "orthogonal", "eva"] = True
    """Other values change the base model's weights."""

    def spec(self) -> AdapterSpec:
        """Return the adapter that the configuration describes."""
        targets, layers = self.target_modules, self.layers_to_transform
        if isinstance(targets, str) and targets != "all-linear":
            targets = [targets]
        return AdapterSpec(
            rank=self.r,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            target_modules="all-linear" if isinstance(targets, str) else tuple(targets),
            layers=tuple([layers] if isinstance(layers, int) else layers or ()) or None,
            use_rslora=self.use_rslora,
        )


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
    with safetensors_refusals():
        save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_spec.json").write_text(json.dumps(asdict(spec), indent=1))


def load_adapter(model: PreTrainedModel, folder: Path) -> LoraAdapter:
    """Read a LoRA adapter from a PEFT folder; keys, shapes and values are checked.

    Raises :class:`ModelError` for a folder without a supported adapter, and for weights that are missing, unknown, of another
    shape or not finite; :class:`ConfigError` when the model lacks the adapter's modules.
    """
    if is_url(str(folder)):
        raise ModelError(f"the adapter {shown(str(folder))} is a URL; download it first and give the folder")
    config = _read_config(folder / "adapter_config.json")
    spec = config.spec()
    names = target_modules(model, spec)
    if config.fan_in_fan_out and not any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in names):
        raise ModelError(
            f"{folder}: fan_in_fan_out: True is not allowed for this model: its weights are not transposed"
        )
    state = _read_weights(folder)
    weights = {}
    for name in names:
        fan_out, fan_in = linear_shape(model.get_submodule(name), name)
        a = _pop_weight(folder, state, f"{PEFT_PREFIX}{name}.lora_A.weight", (spec.rank, fan_in))
        weights[name] = (a, _pop_weight(folder, state, f"{PEFT_PREFIX}{name}.lora_B.weight", (fan_out, spec.rank)))
    if state:
        raise ModelError(f"{folder}: weights for modules this model does not adapt: {shown(sorted(state)[:3])}")
    return LoraAdapter(spec=spec, weights=weights)


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """Return the base model (a hub id or a folder) that a PEFT folder names, and its revision; no weights are read.

    Raises :class:`ModelError` for an unsupported configuration, and where it names no base model.
    """
    path = folder / "adapter_config.json"
    extra = _read_config(path).model_extra or {}
    base, revision = extra.get("base_model_name_or_path"), extra.get("revision")
    if not isinstance(base, str) or not base.strip() or not base.isprintable():
        raise ModelError(f"{path}: base_model_name_or_path: {shown(base)} is not allowed; it must name the base model")
    if not (revision is None or (isinstance(revision, str) and revision.isprintable())):
        raise ModelError(f"{path}: revision: {shown(revision)} is not allowed; it must be null or a revision's name")
    return base, revision or None


def _read_config(path: Path) -> _PeftConfig:
    _check_is_file(path)
    try:
        config = _PeftConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = f"{first['loc'][0]}: {shown(first['input'])} is not allowed: " if first["loc"] else ""
        raise ModelError(f"{path} is not a supported LoRA configuration: {field}{first['msg']}") from error
    for name, value in (config.model_extra or {}).items():
        if value and name not in _WITHOUT_MEANING:
            raise ModelError(f"{path}: {shown(name)}: {shown(value)} is not allowed: it changes what the weights mean")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise ModelError(f"{folder} has its weights in adapter_model.bin only, a pickle; pickles are not loaded")
    _check_is_file(path)
    try:
        return {key: tensor.clone() for key, tensor in load_file(path).items()}  # the file may be overwritten later
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path} is not a safetensors file: {shown(str(error), 200)}") from error


def _pop_weight(folder: Path, state: dict[str, Tensor], key: str, shape: tuple[int, int]) -> Tensor:
    """Return and remove a weight. Raises :class:`ModelError` if it is missing, of another shape or type, or not finite."""
    tensor = state.pop(key, None)
    found = "missing" if tensor is None else f"{tuple(tensor.shape)} of type {tensor.dtype}"
    if tensor is None or tensor.shape != shape or not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ModelError(
            f"{folder}: {key}: expected finite weights of shape {shape} in 16, 32 or 64 bits, found {found}"
        )
    if not tensor.isfinite().all():
        raise ModelError(f"{folder}: {key}: expected finite weights of shape {shape}, found NaN or infinite ones")
    return tensor


def _check_is_file(path: Path) -> None:
    """Raise :class:`ModelError` for a missing file, a folder or a pipe (reading which waits for ever)."""
    if not path.is_file():
        raise ModelError(f"{path} is missing or not a file")
