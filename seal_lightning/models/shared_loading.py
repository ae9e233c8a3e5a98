"""A model that one process of a run reads, and the others get from it by broadcast.

The others build the model without memory (on torch's meta device), make room for each tensor once, and receive it: they read
no file, and hold no second copy. What is not in a checkpoint comes too: buffers that the model computes, generation
settings, the tokenizer.
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
class _Announcement:
    """All there is to know of a model but its numbers."""

    model_class: type[PreTrainedModel]
    config: PretrainedConfig
    generation_config: GenerationConfig | None
    tokenizer: PreTrainedTokenizerBase
    tensors: list[tuple[str, torch.Size, torch.dtype]]
    """Parameters, then buffers, in the order they are sent; what is tied, once."""


def can_share() -> bool:
    """Whether there are other processes to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def load_shared(read: Callable[[], Loaded]) -> Loaded:
    """What ``read`` returns on rank 0, on every rank and on the CPU. A collective: every rank must call it.

    Raises what ``read`` raises on rank 0, and :class:`ModelError` on the others then; :class:`ModelError` on all ranks
    where the model cannot be built again from its settings.
    """
    if dist.get_rank() == 0:
        model, tokenizer = _read_or_tell(lambda: _numbers(read()))
        announced = _Announcement(
            model_class=type(model),
            config=model.config,
            generation_config=model.generation_config,
            tokenizer=tokenizer,
            tensors=[(name, tensor.shape, tensor.dtype) for name, tensor in _tensors(model)],
        )
        _broadcast_object(announced)
        _agree(None)
    else:
        announced = _heard(_broadcast_object(None))
        model = _built(announced)
    tensors = dict(_tensors(model))
    for name, _, _ in announced.tensors:
        _broadcast(tensors[name])
    return model, announced.tokenizer


def _read_or_tell(read: Callable[[], Loaded]) -> Loaded:
    """Read; where that fails, the others are told before they wait for what never comes."""
    try:
        return read()
    except Exception as error:
        _broadcast_object(str(error))
        raise


def _numbers(loaded: Loaded) -> Loaded:
    """What was read. Raises :class:`ModelError` for codes, of which the others would make nothing."""
    if is_quantized(loaded[0]):
        raise ModelError(
            "model.pretrained.share_across_ranks: true is not allowed for a checkpoint that is quantised; set it to false"
        )
    return loaded


def _heard(said: Any) -> _Announcement:
    """What rank 0 announced. Raises :class:`ModelError` where it failed instead."""
    if isinstance(said, _Announcement):
        return said
    raise ModelError(f"rank 0, which reads the model for all ranks, could not: {said}")


def _built(announced: _Announcement) -> PreTrainedModel:
    """The announced model with memory of its own, numbers undefined."""
    with torch.device("meta"):
        model = announced.model_class(announced.config)
    model.generation_config = announced.generation_config
    found, expected = {name for name, _ in _tensors(model)}, {name for name, _, _ in announced.tensors}
    _agree(sorted((found ^ expected) | set(_unregistered(model)))[:3] or None)
    _make_room(model, {name: (shape, dtype) for name, shape, dtype in announced.tensors})
    return model


def _agree(differing: list[str] | None) -> None:
    """Raise :class:`ModelError` on all ranks where one could not build the model."""
    of_ranks = [names for names in gather_objects([differing]) if names is not None]
    if of_ranks:
        raise ModelError(
            f"model.pretrained.share_across_ranks: true is not allowed for this model: built from its settings it differs "
            f"from what its checkpoint gives in {shown(of_ranks[0])}. Set it to false: every rank then reads the model itself"
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those of no checkpoint too, each once, in the model's order."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unregistered(model: nn.Module) -> Iterator[str]:
    """Tensors that a module keeps as plain attributes, where no broadcast would find them."""
    for name, module in model.named_modules():
        yield from (f"{name}.{key}" for key, value in vars(module).items() if isinstance(value, Tensor))


def _make_room(model: nn.Module, sizes: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
    """Put memory behind every tensor; what is one tensor in two places (tied) stays one."""
    weightless = list(_tensors(model))  # held until the end: a number that is free again may be given to another
    made: dict[int, Tensor] = {}
    for name, tensor in weightless:
        shape, dtype = sizes[name]
        empty = torch.empty(shape, dtype=dtype, device="cpu")
        made[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    for module in model.modules():
        for places in (module._parameters, module._buffers):
            places |= {name: made[id(tensor)] for name, tensor in places.items() if tensor is not None}


def _broadcast_object(announced: Any) -> Any:
    said = [announced]
    dist.broadcast_object_list(said, src=0)
    return said[0]


@torch.no_grad()
def _broadcast(tensor: Tensor) -> None:
    """As bytes: every type, and every bit. NCCL sends from GPUs only, so there a tensor takes that way, one at a time."""
    if tensor.numel() == 0:
        return
    own = tensor.detach().contiguous().view(-1).view(torch.uint8)
    sent = own
    if dist.get_backend() == "nccl":
        sent = own.to(torch.device("cuda", torch.cuda.current_device()))
    dist.broadcast(sent, src=0)
    if dist.get_rank() != 0 and sent is not own:
        own.copy_(sent)
