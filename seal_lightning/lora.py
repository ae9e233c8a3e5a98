"""LoRA as tensors beside a model that is never changed: made, applied, merged, joined, saved and loaded.

An adapter is applied by forward hooks for the length of a ``with`` block. So the base model keeps its modules, names and
weights, DDP and FSDP see no parameter of the inner loop, and any number of adapters of any shape can live at once. What a
``LoraConfig`` would target, how it starts and what it computes are PEFT's, and tests hold us to that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from seal_lightning.errors import ConfigError, ModelError, shown
from seal_lightning.types import Adapter, AdapterSpec

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraAdapter(Adapter):
    """LoRA weights by module name: A is [rank, in], B is [out, rank]; the update of a weight is scaling · B A."""

    spec: AdapterSpec
    weights: dict[str, tuple[Tensor, Tensor]]

    @property
    def scaling(self) -> float:
        """Alpha / rank, or alpha / √rank with rsLoRA."""
        return self.spec.alpha / (math.sqrt(self.spec.rank) if self.spec.use_rslora else self.spec.rank)

    def tensors(self) -> list[Tensor]:
        """All A and B, in the order of the modules."""
        return [tensor for pair in self.weights.values() for tensor in pair]

    def detached_copy(self, device: torch.device | str = "cpu") -> LoraAdapter:
        """The same weights in memory of their own, without gradients."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().clone().to(device)

        return replace(self, weights={name: (copied(a), copied(b)) for name, (a, b) in self.weights.items()})


def target_modules(model: PreTrainedModel, spec: AdapterSpec) -> tuple[str, ...]:
    """The names of the linear modules PEFT would adapt for this spec, in the model's order.

    PEFT itself is asked, on a weightless skeleton of the model. Raises :class:`ConfigError` when a name or layer matches
    nothing or a module is not linear.
    """
    from peft import LoraConfig, get_peft_model

    targets: list[str] | str | None = (
        spec.target_modules if not isinstance(spec.target_modules, tuple) else list(spec.target_modules)
    )
    config = LoraConfig(r=1, target_modules=targets, task_type="CAUSAL_LM")
    try:
        with torch.device("meta"):  # PEFT's weights too: to initialise real ones moves the global generator
            skeleton = AutoModelForCausalLM.from_config(model.config)
            names = get_peft_model(skeleton, config).base_model.targeted_module_names
    except ValueError as error:
        raise ConfigError(f"adapter.target_modules: {shown(targets)} is not allowed: {error}") from error
    if spec.layers is not None:
        names = [name for name in names if _layer_index(name) in spec.layers]
        if missing := set(spec.layers) - {_layer_index(name) for name in names}:
            raise ConfigError(
                f"adapter.layers: {sorted(missing)} have no such module; the model has layers 0 to "
                f"{model.config.num_hidden_layers - 1}"
            )
    for name in names:
        _linear_shape(model.get_submodule(name), name)
    return tuple(names)


def init_adapter(
    model: PreTrainedModel, spec: AdapterSpec, generator: torch.Generator, modules: Sequence[str] | None = None
) -> LoraAdapter:
    """A fresh adapter as PEFT starts one: A from Kaiming's uniform distribution with a = √5, B zero.

    Weights are float32 (float64 on a float64 model) on the model's device; the generator must be a CPU one.
    """
    weights = {}
    for name in modules if modules is not None else target_modules(model, spec):
        weight = model.get_submodule(name).weight
        fan_out, fan_in = _linear_shape(model.get_submodule(name), name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a = torch.empty(spec.rank, fan_in, dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        weights[name] = (a.to(weight.device), torch.zeros(fan_out, spec.rank, dtype=dtype, device=weight.device))
    return LoraAdapter(spec=spec, weights=weights)


@contextmanager
def applied(
    model: PreTrainedModel, adapter: LoraAdapter | None, dropout: torch.Generator | None = None
) -> Iterator[None]:
    """The model computes with the adapter inside this block (with None: as it is).

    ``dropout`` is the generator of the adapter's dropout while training; without it nothing is dropped.
    """
    handles = []
    try:
        for name, pair in adapter.weights.items() if adapter is not None else ():
            assert adapter is not None
            hook = _update_hook(*pair, adapter.scaling, adapter.spec.dropout if dropout is not None else 0.0, dropout)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _update_hook(
    a: Tensor, b: Tensor, scaling: float, dropout: float, generator: torch.Generator | None
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(a.dtype)
        if dropout > 0:
            kept = torch.rand(x.shape, generator=generator).to(x.device) >= dropout
            x = x * kept / (1 - dropout)
        return output + (F.linear(F.linear(x, a), b) * scaling).to(output.dtype)

    return add_update


@torch.no_grad()
def merge(model: PreTrainedModel, adapter: LoraAdapter) -> None:
    """Add the adapter's update to the weights for good, computed in float32 (or wider): bf16 merges drift."""
    for name, (a, b) in adapter.weights.items():
        module = model.get_submodule(name)
        wide = torch.promote_types(torch.promote_types(module.weight.dtype, a.dtype), torch.float32)
        update = (b.to(wide) @ a.to(wide) * adapter.scaling).to(module.weight.device)
        merged = module.weight.to(wide) + (update if isinstance(module, nn.Linear) else update.T)
        module.weight.copy_(merged.to(module.weight.dtype))


def joined(adapters: Sequence[LoraAdapter]) -> LoraAdapter:
    """One adapter whose update is the sum of the adapters' updates: their A stacked, their scaled B side by side."""
    first = adapters[0]
    weights = {
        name: (
            torch.cat([adapter.weights[name][0] for adapter in adapters]),
            torch.cat([adapter.weights[name][1] * adapter.scaling for adapter in adapters], dim=1),
        )
        for name in first.weights
    }
    rank = sum(adapter.spec.rank for adapter in adapters)
    return LoraAdapter(spec=replace(first.spec, rank=rank, alpha=float(rank), use_rslora=False), weights=weights)


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
    fan_out, fan_in = _linear_shape(model.get_submodule(name), name)
    return (rank, fan_in), (fan_out, rank)


def _layer_index(name: str) -> int | None:
    """The decoder layer a module is in: the first number in its name, as PEFT reads it."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _linear_shape(module: nn.Module, name: str) -> tuple[int, int]:
    """(out, in) of a linear module; GPT-2's Conv1D stores its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        weight: Tensor = module.get_parameter("weight")
        return weight.shape[1], weight.shape[0]
    raise ConfigError(
        f"adapter.target_modules: {name} is a {type(module).__name__}; LoRA here adapts linear layers only"
    )
