"""Loading of a model on rank 0 alone, and its broadcast to the other ranks.

The others build the model on torch's meta device, allocate each tensor once, and receive it: they read no file, and hold no
second copy. What is not in a checkpoint comes too: computed buffers, generation settings, the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from seal_lightning.core.errors import ModelError, shown
from seal_lightning.distributed.coordination import gather_objects
from seal_lightning.models.quantization import is_quantized

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True, kw_only=True)
class _Skeleton:
    """A model without its numbers."""

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    generation_config: GenerationConfig | None
    tokenizer: PreTrainedTokenizerBase
    tensors: list[tuple[str, torch.Size, torch.dtype]]
    """Parameters, then buffers, in the order they are sent; tied ones once."""


def can_share() -> bool:
    """Return True if there are other processes to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def load_shared(read: Callable[[], Loaded]) -> Loaded:
    """Return on every rank, on the CPU, what ``read`` returns on rank 0. A collective: every rank must call it.

    Raises what ``read`` raises on rank 0, and :class:`ModelError` on the others then; :class:`ModelError` on all ranks
    where the model cannot be built again from its settings.
    """
    if dist.get_rank() == 0:
        try:
            model, tokenizer = read()
            if is_quantized(model):
                raise ModelError(
                    "model.pretrained.share_across_ranks: true is not allowed for a quantised checkpoint; set it to false"
                )
        except Exception as error:
            _broadcast_object(str(error))  # the others must not wait
            raise
        skeleton = _Skeleton(
            model_class=type(model),
            config=model.config,
            generation_config=model.generation_config,
            tokenizer=tokenizer,
            tensors=[(name, tensor.shape, tensor.dtype) for name, tensor in _tensors(model)],
        )
        _broadcast_object(skeleton)
        _require_same_tensors(None)
    else:
        skeleton = _broadcast_object(None)
        if not isinstance(skeleton, _Skeleton):
            raise ModelError(f"rank 0, which reads the model for all ranks, could not: {skeleton}")
        model = _built(skeleton)
    tensors = dict(_tensors(model))
    for name, _, _ in skeleton.tensors:
        _broadcast(tensors[name])
    return model, skeleton.tokenizer


def _built(skeleton: _Skeleton) -> PreTrainedModel:
    """Return the model with memory of its own, its numbers undefined."""
    with torch.device("meta"):
        model = skeleton.model_class(skeleton.config)
    model.generation_config = skeleton.generation_config
    found, expected = {name for name, _ in _tensors(model)}, {name for name, _, _ in skeleton.tensors}
    # No broadcast would find tensors that a module keeps as plain attributes.
    unregistered = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    }
    _require_same_tensors(sorted((found ^ expected) | unregistered)[:3] or None)
    _allocate(model, {name: (shape, dtype) for name, shape, dtype in skeleton.tensors})
    return model


def _require_same_tensors(differing: list[str] | None) -> None:
    """Raise :class:`ModelError` on all ranks where one could not build the model."""
    of_ranks = [names for names in gather_objects([differing]) if names is not None]
    if of_ranks:
        raise ModelError(
            f"model.pretrained.share_across_ranks: true is not allowed for this model: built from its configuration it "
            f"differs from its checkpoint in {shown(of_ranks[0])}. Set it to false: every rank then reads the model itself"
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers, those of no checkpoint too, each once, in the model's order."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _allocate(model: nn.Module, sizes: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
    """Allocate every tensor; tied tensors stay one."""
    on_meta = list(_tensors(model))  # kept until the end: Python may reuse the id of an object that is gone
    made: dict[int, Tensor] = {}
    for name, tensor in on_meta:
        shape, dtype = sizes[name]
        empty = torch.empty(shape, dtype=dtype, device="cpu")
        made[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    for module in model.modules():
        for registered in (module._parameters, module._buffers):
            registered |= {name: made[id(tensor)] for name, tensor in registered.items() if tensor is not None}


def _broadcast_object(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def _broadcast(tensor: Tensor) -> None:
    """Send a tensor as bytes: every type, and every bit. NCCL sends from GPUs only, so it goes there and back."""
    if tensor.numel() == 0:
        return
    own = tensor.detach().contiguous().view(-1).view(torch.uint8)  # [bytes]
    sent = own
    if dist.get_backend() == "nccl":
        sent = own.to(torch.device("cuda", torch.cuda.current_device()))
    dist.broadcast(sent, src=0)
    if dist.get_rank() != 0 and sent is not own:
        own.copy_(sent)
