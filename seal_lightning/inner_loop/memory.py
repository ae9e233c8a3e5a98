"""How many adapters and tokens fit: planned from the model before training, not found out by running out.

What a pass needs is counted on the model itself: a short probe runs forward with hooks that add up what autograd keeps.
So the plan holds for any architecture, and for adapters on some layers only (below the first, nothing is kept). With
gradient checkpointing two probes are run: what a pass keeps then is the layers' inputs and, while a layer is computed again,
what that one layer keeps.
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
"""A pass's peak over what autograd keeps: gradients on their way down, a layer's temporaries."""
_STATES = 4
"""Tensors an adapter's weights are kept in: themselves, their gradient and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """What training takes, in bytes."""

    per_token: int
    """Of a packed pass."""
    per_adapter: int
    """Weights, gradient and optimiser state of one adapter."""
    result: int
    """Weights of a trained adapter, kept until it is examined."""
    fixed: int
    """The logits of one chunk, with a copy."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What is trained at once."""

    num_adapters: int
    num_tokens: int


def allowed(needs: MemoryNeeds, free_bytes: int, wish: Allowance, longest_sequence: int) -> Allowance:
    """As much of the wish as fits: adapters give way before the tokens of the longest sequence do, and never below one."""
    free = free_bytes - needs.fixed
    sequence = longest_sequence * needs.per_token
    adapters = max(1, min(wish.num_adapters, (free - sequence) // max(needs.per_adapter, 1)))
    tokens = (free - adapters * needs.per_adapter) // max(needs.per_token, 1)
    return Allowance(num_adapters=adapters, num_tokens=max(1, min(wish.num_tokens, tokens)))


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device; a host's is shared evenly by the run's processes on it."""
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
    """What a model's training takes.

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
    """Bytes of the distinct storages that autograd saves, weights aside."""
    weights = _places(model) | {tensor.untyped_storage().data_ptr() for tensor in adapter_tensors}
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if sharded and storage.data_ptr() not in weights:
            weights.update(_places(model))  # a sharded layer's weights are somewhere else each time they are gathered
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output kept with its graph would be a cycle, and all of the pass would live on

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = probe()  # kept alive until all is counted, so that no storage is counted twice under a new tenant
        total = sum(kept.values())
    del result
    return total


def _places(model: nn.Module) -> set[int]:
    """Where the weights are that are whole now."""
    held = (tensor for tensor in (*model.parameters(), *model.buffers()) if not isinstance(tensor, DTensor))
    return {tensor.untyped_storage().data_ptr() for tensor in held}
