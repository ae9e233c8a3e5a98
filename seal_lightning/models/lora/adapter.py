"""LoRA adapters as tensors: created, merged into a model, summed and made smaller. The model's modules never change.

Shapes: I inputs and O outputs of a linear layer, R rank, K rank kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from seal_lightning.core import Adapter, AdapterSpec
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.distributed.tensor_shards import here, rows_here
from seal_lightning.models.quantization import add_unmerged, has_float_weight


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraAdapter(Adapter):
    """LoRA weights by module name: A is [R, I], B is [O, R]; the update of a weight is scaling · B A."""

    spec: AdapterSpec
    weights: dict[str, tuple[Tensor, Tensor]]

    @property
    def scaling(self) -> float:
        """Alpha / rank, or alpha / √rank with rsLoRA."""
        return self.spec.alpha / (math.sqrt(self.spec.rank) if self.spec.use_rslora else self.spec.rank)

    def tensors(self) -> list[Tensor]:
        """Return all A and B, in the order of the modules."""
        return [tensor for pair in self.weights.values() for tensor in pair]

    def from_flat(self, flat: Tensor) -> LoraAdapter:
        """Return an adapter of the same shapes whose tensors are views of a flat tensor, in the order of :meth:`tensors`."""
        pieces = iter(torch.split(flat, [tensor.numel() for tensor in self.tensors()]))
        weights = {
            name: (next(pieces).view(a.shape), next(pieces).view(b.shape)) for name, (a, b) in self.weights.items()
        }
        return replace(self, weights=weights)

    def detached_copy(self, device: torch.device | str = "cpu") -> LoraAdapter:
        """Return a copy of the weights, without gradients."""
        weights = {
            name: (a.detach().clone().to(device), b.detach().clone().to(device))
            for name, (a, b) in self.weights.items()
        }
        return replace(self, weights=weights)


def target_modules(model: PreTrainedModel, spec: AdapterSpec) -> tuple[str, ...]:
    """Return the names of the linear modules that PEFT would adapt for this spec, in the model's order.

    PEFT itself finds them, on a skeleton of the model without weights. Raises :class:`ConfigError` when a name or layer
    matches nothing or a module is not linear.
    """
    from peft import LoraConfig, get_peft_model

    targets: list[str] | str | None = (
        spec.target_modules if not isinstance(spec.target_modules, tuple) else list(spec.target_modules)
    )
    config = LoraConfig(r=1, target_modules=targets, task_type="CAUSAL_LM")
    try:
        with torch.device("meta"):  # PEFT's weights too: initialising real ones would advance the global generator
            skeleton = AutoModelForCausalLM.from_config(model.config)
            names = get_peft_model(skeleton, config).base_model.targeted_module_names
    except ValueError as error:
        raise ConfigError(f"adapter.target_modules: {shown(targets)} is not allowed: {error}") from error
    if spec.layers is not None:
        names = [name for name in names if layer_of(name)[1] in spec.layers]
        if missing := set(spec.layers) - {layer_of(name)[1] for name in names}:
            raise ConfigError(
                f"adapter.layers: {sorted(missing)} have no such module; the model has layers 0 to "
                f"{model.config.num_hidden_layers - 1}"
            )
    for name in names:
        linear_shape(model.get_submodule(name), name)
        if model.get_submodule(name) is model.get_output_embeddings():
            raise ConfigError(
                f"adapter.target_modules: {name} is the output head, which is not adapted (its logits are never made as "
                "a whole); remove it"
            )
    return tuple(names)


def init_adapter(
    model: PreTrainedModel, spec: AdapterSpec, generator: torch.Generator, modules: Sequence[str] | None = None
) -> LoraAdapter:
    """Return a new adapter, initialised as in PEFT: A from Kaiming's uniform distribution with a = √5, B zero.

    Weights are float32 (float64 on a float64 model) on the model's device; the generator must be a CPU one.
    """
    weights = {}
    device = next(model.parameters()).device  # the embeddings': those of the layers may be offloaded
    for name in modules if modules is not None else target_modules(model, spec):
        weight = model.get_submodule(name).weight
        fan_out, fan_in = linear_shape(model.get_submodule(name), name)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        a = torch.empty(spec.rank, fan_in, dtype=dtype)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        weights[name] = (a.to(device), torch.zeros(fan_out, spec.rank, dtype=dtype, device=device))
    return LoraAdapter(spec=spec, weights=weights)


@torch.no_grad()
def merge(model: PreTrainedModel, adapter: LoraAdapter) -> None:
    """Add the adapter's update to the weights, computed in float32 or wider: merges in bfloat16 would drift.

    For a sharded weight each rank computes the whole update and adds its own rows: no communication, and the same bits. A
    layer with 4-bit weights keeps the update beside them.
    """
    for name, (a, b) in adapter.weights.items():
        module = model.get_submodule(name)
        if not has_float_weight(module):
            add_unmerged(module, a, b * adapter.scaling)
            continue
        weight = here(module.weight)
        wide = torch.promote_types(torch.promote_types(weight.dtype, a.dtype), torch.float32)
        update = b.to(wide) @ a.to(wide) * adapter.scaling
        rows = rows_here(update if isinstance(module, nn.Linear) else update.T, module.weight).to(weight.device)
        weight.copy_((weight.to(wide) + rows).to(weight.dtype))


def sum_adapters(adapters: Sequence[LoraAdapter]) -> LoraAdapter:
    """Return one adapter whose update is the sum of the adapters' updates: A and scaled B concatenated along the rank.

    The adapters may have different modules; where one lacks a module, its part is zero.
    """
    weights = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.weights):
        like_a, like_b = next(adapter.weights[name] for adapter in adapters if name in adapter.weights)
        pairs = []
        for adapter in adapters:
            if name in adapter.weights:
                a, b = adapter.weights[name]
                pairs.append((a, b * adapter.scaling))
            else:
                rank = adapter.spec.rank
                pairs.append((like_a.new_zeros(rank, like_a.shape[1]), like_b.new_zeros(like_b.shape[0], rank)))
        weights[name] = (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1))
    rank = sum(adapter.spec.rank for adapter in adapters)
    return LoraAdapter(spec=replace(adapters[0].spec, rank=rank, alpha=float(rank), use_rslora=False), weights=weights)


@torch.no_grad()
def scaled_adapter(adapter: LoraAdapter, factor: float) -> LoraAdapter:
    """Return the adapter whose update is ``factor`` times as large."""
    return replace(adapter, weights={name: (a, b * factor) for name, (a, b) in adapter.weights.items()})


@torch.no_grad()
def truncated_adapter(adapter: LoraAdapter, rank: int) -> LoraAdapter:
    """Return the adapter of ``rank`` ≥ 1 with the nearest update of each layer (Eckart and Young), or itself if smaller.

    The singular vectors of B A come from two thin QR decompositions and an R × R one, so the [O, I] update is never computed.
    """
    if rank >= adapter.spec.rank:
        return adapter
    weights = {name: _truncated(a, b * adapter.scaling, rank) for name, (a, b) in adapter.weights.items()}
    spec = replace(adapter.spec, rank=rank, alpha=float(rank), use_rslora=False)
    return LoraAdapter(spec=spec, weights=weights)


def _truncated(a_RI: Tensor, b_OR: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [K, I] and B [O, K], padded with zeros where a layer is smaller than K, so that all layers have one rank."""
    in_basis, in_core = torch.linalg.qr(a_RI.T)
    out_basis, out_core = torch.linalg.qr(b_OR)
    left, strength, right = torch.linalg.svd(out_core @ in_core.T, full_matrices=False)
    kept = min(rank, len(strength))
    a_KI, b_OK = a_RI.new_zeros(rank, a_RI.shape[1]), b_OR.new_zeros(b_OR.shape[0], rank)
    a_KI[:kept] = right[:kept] @ in_basis.T
    b_OK[:, :kept] = out_basis @ (left[:, :kept] * strength[:kept])
    return a_KI, b_OK


def layer_of(name: str) -> tuple[str, int | None]:
    """Return a module's list of layers and its index there: up to the first number in its name, as PEFT reads it.

    Example:
        >>> layer_of("model.layers.3.self_attn.q_proj")
        ('model.layers', 3)
    """
    parts = name.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return (name, None) if index is None else (".".join(parts[:index]), int(parts[index]))


def linear_shape(module: nn.Module, name: str) -> tuple[int, int]:
    """Return (O, I) of a linear module; GPT-2's Conv1D stores its weight transposed."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        weight: Tensor = module.get_parameter("weight")
        return weight.shape[1], weight.shape[0]
    raise ConfigError(
        f"adapter.target_modules: {name} is a {type(module).__name__}; LoRA here adapts linear layers only"
    )
