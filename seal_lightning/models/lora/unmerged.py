"""Merged updates of layers whose weights cannot be added to: kept beside them, in full precision.

To dequantise a 4-bit weight, add an update and quantise again loses most of it: an M-step moves a weight by far less than
the distance of two of the sixteen values. So a quantised layer keeps its weights, and the sum of all merged updates as one
LoRA whose rank grows with each merge; the layer adds it to what it computes.

Shapes: I inputs and O outputs of a linear layer, R the ranks of all merged updates together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Beside = dict[str, tuple[Tensor, Tensor]]

_A, _B = "merged_lora_A", "merged_lora_B"


def takes_additions(module: nn.Module) -> bool:
    """Whether a layer's weight is made of numbers, and not of codes."""
    return module.get_parameter("weight").is_floating_point()


@torch.no_grad()
def merge_unmerged(module: nn.Module, a_RI: Tensor, b_OR: Tensor) -> None:
    """Let the layer add B A from now on, beside what it added already."""
    known, weight = _kept(module), module.get_parameter("weight")
    a_RI, b_OR = a_RI.detach().to(weight.device), b_OR.detach().to(weight.device)
    if known is not None:
        a_RI, b_OR = torch.cat([known[0], a_RI]), torch.cat([known[1], b_OR], dim=1)
    elif _A not in module._buffers:
        # First of the hooks, so that adapters meet the layer's output as they would a merged one's.
        module.register_forward_hook(_add_merged, prepend=True)
    _keep(module, (a_RI.clone(), b_OR.clone()))


def unmerged_updates(model: nn.Module) -> Beside:
    """What each layer adds, by its name; never changed in place."""
    return {name: pair for name, module in model.named_modules() if (pair := _kept(module)) is not None}


def attach_unmerged(model: nn.Module, beside: Beside) -> None:
    """Let the layers add these, and no others anything; with {} they are as they were loaded."""
    for name, module in model.named_modules():
        if _A in module._buffers:
            _keep(module, beside.get(name))


def _kept(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    a, b = module._buffers.get(_A), module._buffers.get(_B)
    return None if a is None or b is None else (a, b)


def _keep(module: nn.Module, pair: tuple[Tensor, Tensor] | None) -> None:
    """As buffers they go where the layer goes; checkpoints hold the rounds' LoRAs, and not these."""
    for name, tensor in zip((_A, _B), pair or (None, None), strict=True):
        module.register_buffer(name, tensor, persistent=False)


def _add_merged(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    pair = _kept(module)
    if pair is None:
        return output
    a_RI, b_OR = pair
    with torch.autocast(output.device.type, enabled=False):
        update = F.linear(F.linear(inputs[0].to(a_RI.dtype), a_RI), b_OR)
        return (output.to(a_RI.dtype) + update).to(output.dtype)
