"""Memory planning: the number of adapters and tokens that fit, estimated on the model before training.

A short probe runs forward with hooks that add up what autograd keeps. So the estimate holds for any architecture, and for
adapters on some layers only (below the lowest, nothing is kept). With gradient checkpointing two probes run: a pass then
keeps the layers' inputs and, while one layer is recomputed, what that layer keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from seal_lightning.models.packed.losses import chunk_rows

_TRANSIENT = 1.5
"""A pass's peak over what autograd keeps: gradients in flight and a layer's temporaries."""
_STATES = 4
"""Tensors per weight: itself, its gradient and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Memory of training, in bytes."""

    per_token: int
    """Per token of a packed pass."""
    per_adapter: int
    """Weights, gradient and optimiser state of one adapter."""
    result: int
    """Weights of a trained adapter, kept until it is examined."""
    fixed: int
    """The logits of one chunk, with a copy."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """The adapters and tokens that may be trained at once."""

    num_adapters: int
    num_tokens: int


def allowed(needs: MemoryNeeds, free_bytes: int, wish: Allowance, longest_sequence: int) -> Allowance:
    """Return as much of ``wish`` as fits, at least one of each; adapters are reduced before the longest sequence's tokens."""
    free = free_bytes - needs.fixed
    sequence = longest_sequence * needs.per_token
    adapters = max(1, min(wish.num_adapters, (free - sequence) // max(needs.per_adapter, 1)))
    tokens = (free - adapters * needs.per_adapter) // max(needs.per_token, 1)
    return Allowance(num_adapters=adapters, num_tokens=max(1, min(wish.num_tokens, tokens)))


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device in bytes; a host's is divided by the number of the run's processes on it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    everywhere = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", everywhere))


def memory_needs(
    model: nn.Module,
    adapter_tensors: Sequence[Tensor],
    probe: Callable[[bool], object],
    probe_tokens: int,
    vocabulary: int,
    recomputed_layers: int | None = None,
) -> MemoryNeeds:
    """Return the memory that a model's training needs.

    Args:
        model: frozen, adapters beside it.
        adapter_tensors: of one adapter.
        probe: runs a forward pass with gradients on, checkpointed where its argument is true.
        probe_tokens: of that pass.
        vocabulary: tokens the head knows.
        recomputed_layers: ≥ 1, trained layers that are computed again one by one; None without gradient checkpointing.
    """
    size = adapter_tensors[0].element_size()
    chunk = chunk_rows(vocabulary, adapter_tensors[0].device) * vocabulary * size
    weights = size * sum(tensor.numel() for tensor in adapter_tensors)
    kept = _kept_for_backward(model, adapter_tensors, lambda: probe(False))
    if recomputed_layers is not None:
        kept = _kept_for_backward(model, adapter_tensors, lambda: probe(True)) + kept // recomputed_layers
    return MemoryNeeds(
        per_token=int(_TRANSIENT * kept / probe_tokens),
        per_adapter=_STATES * weights,
        result=weights,
        fixed=2 * chunk,
    )


def _kept_for_backward(model: nn.Module, adapter_tensors: Sequence[Tensor], probe: Callable[[], object]) -> int:
    """Return the bytes of the distinct storages that autograd saves, without weights."""
    weights = _places(model) | {tensor.untyped_storage().data_ptr() for tensor in adapter_tensors}
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if sharded and storage.data_ptr() not in weights:
            weights.update(_places(model))  # a sharded layer's weights are gathered to a new address each time
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output kept with its graph would be a cycle and keep the whole pass alive

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = probe()  # kept alive until all is counted: a freed address could be counted twice
        total = sum(kept.values())
    del result
    return total


def _places(model: nn.Module) -> set[int]:
    """Return the addresses of the weights that are not sharded."""
    held = (tensor for tensor in (*model.parameters(), *model.buffers()) if not isinstance(tensor, DTensor))
    return {tensor.untyped_storage().data_ptr() for tensor in held}
