"""LoRA adapters as standard PEFT folders. What is read is checked first: it may come from anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ModelError, shown
from seal_lightning.core.names import is_url
from seal_lightning.models.lora.adapter import LoraAdapter, linear_shape, target_modules
from seal_lightning.storage.atomic_files import safetensors_refusals

PEFT_PREFIX = "base_model.model."
MAX_CONFIG_BYTES = 2**20
MAX_HEADER_BYTES = 10 * 2**20
"""Of the tensors' names and shapes; a hundred layers take a quarter of a MiB."""
_DTYPES = ("F16", "BF16", "F32", "F64")
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
"""Fields of PEFT's that say nothing about what the weights do, whatever they are."""

_ModuleName = Annotated[str, Field(pattern="^[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*$", max_length=200)]
"""Plain: PEFT takes other strings for regular expressions, and one of those can take for ever."""


class _PeftConfig(BaseModel):
    """``adapter_config.json``. What is not named here must be off: we would leave out what it means."""

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
    """Others begin by changing the base model's weights."""

    def spec(self) -> AdapterSpec:
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
    """Read a LoRA adapter from a PEFT folder, checked for keys, shapes and finiteness.

    Raises :class:`ModelError` when it is none, or does what is not done here, and when a weight is missing, unknown,
    misshapen or not finite; :class:`ConfigError` when the model has no such modules.
    """
    if is_url(str(folder)):
        raise ModelError(
            f"the adapter {shown(str(folder))} is a URL; only folders on a disk are loaded. Fetch it first"
        )
    config = _config(folder / "adapter_config.json")
    spec = config.spec()
    names = target_modules(model, spec)
    if config.fan_in_fan_out and not any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in names):
        raise ModelError(
            f"{folder}: fan_in_fan_out: True is not allowed for this model: its weights are not transposed"
        )
    shapes = {
        f"{PEFT_PREFIX}{name}.lora_{letter}.weight": shape
        for name in names
        for letter, shape in zip("AB", _pair_shapes(model, name, spec.rank), strict=True)
    }
    state = _weights(folder, shapes)
    pairs = zip(*[iter(state[key] for key in shapes)] * 2, strict=True)
    return LoraAdapter(spec=spec, weights={name: (a, b) for name, (a, b) in zip(names, pairs, strict=True)})


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """The base model (a hub id or a folder) that a PEFT folder names, and its revision; its weights are not read.

    Raises :class:`ModelError` for a configuration that is not loaded here, and where it names no base model.
    """
    path = folder / "adapter_config.json"
    said = _config(path).model_extra or {}
    base, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not isinstance(base, str) or not base.strip() or not base.isprintable():
        raise ModelError(f"{path}: base_model_name_or_path: {shown(base)} is not allowed; it must name the base model")
    if not (revision is None or (isinstance(revision, str) and revision.isprintable())):
        raise ModelError(f"{path}: revision: {shown(revision)} is not allowed; it must be null or a revision's name")
    return base, revision or None


def _config(path: Path) -> _PeftConfig:
    try:
        _check_regular(path)
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ModelError(f"{path} is no adapter's configuration: it has more than {MAX_CONFIG_BYTES >> 20} MiB")
        config = _PeftConfig.model_validate_json(content)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}", error)
    except ValidationError as error:
        first = error.errors()[0]
        field = f"{first['loc'][0]}: {shown(first['input'])} is not allowed: " if first["loc"] else ""
        _refuse(path, f"is no configuration of a LoRA adapter that is loaded here: {field}{first['msg']}", error)
    for name, value in (config.model_extra or {}).items():
        if value and name not in _WITHOUT_MEANING:
            raise ModelError(
                f"{path}: {shown(name)}: {shown(value)} is not allowed: the weights mean something else then"
            )
    return config


def _weights(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """The folder's weights, once names, types and shapes are those expected: nothing is read for others."""
    path = folder / "adapter_model.safetensors"
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise ModelError(f"{folder} has its weights in adapter_model.bin only, a pickle; pickles are not loaded")
    try:
        _check_regular(path)
        with path.open("rb") as head:
            num_bytes = int.from_bytes(head.read(8), "little")
        if num_bytes > MAX_HEADER_BYTES:
            raise ModelError(f"{path}: its header has {num_bytes} bytes; at most {MAX_HEADER_BYTES} are read")
        with safe_open(path, framework="pt", device="cpu") as file:
            found = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
            for key, shape in shapes.items():
                _check_entry(folder, key, shape, found.get(key))
            if strange := sorted(found.keys() - shapes.keys()):
                raise ModelError(f"{folder}: weights for modules this model does not adapt: {shown(strange[:3])}")
            state = {key: file.get_tensor(key).clone() for key in shapes}
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
        _refuse(path, f"is no safetensors file: {shown(str(error), 200)}", error)
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise ModelError(
                f"{folder}: {key}: expected finite weights of shape {shapes[key]}, found {tuple(tensor.shape)}, all finite: "
                "False"
            )
    return state


def _check_entry(folder: Path, key: str, shape: tuple[int, int], entry: Any) -> None:
    """Raise :class:`ModelError` unless a header's entry is such a weight."""
    kind = "missing" if entry is None else f"{tuple(entry.get_shape())} of type {entry.get_dtype()}"
    if entry is None or tuple(entry.get_shape()) != shape or entry.get_dtype() not in _DTYPES:
        raise ModelError(
            f"{folder}: {key}: expected finite weights of shape {shape}, found {kind}; types are {', '.join(_DTYPES)}"
        )


def _check_regular(path: Path) -> None:
    """Raise :class:`ModelError` for what is no file: to open a pipe waits for ever. A link to a file is a file."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is no file")


def _refuse(path: Path, problem: str, error: Exception) -> NoReturn:
    raise ModelError(f"{path} {problem}") from error


def _pair_shapes(model: PreTrainedModel, name: str, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    fan_out, fan_in = linear_shape(model.get_submodule(name), name)
    return (rank, fan_in), (fan_out, rank)
