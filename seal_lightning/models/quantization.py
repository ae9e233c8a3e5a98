"""4-bit base models: how they are loaded, and the LoRA updates that are kept beside their weights.

The weights of linear layers are stored as NF4 (QLoRA, arXiv 2305.14314) by bitsandbytes and dequantised layer by layer in
every pass; embeddings, norms and the output head are not quantised. Adapters are float32, as always.

Merged updates stay beside the weights in full precision. Dequantising a weight, adding an update and quantising again would
lose most of it: an M-step moves a weight by far less than the distance between two of the sixteen values. So a quantised
layer adds the sum of all merged updates to its output, as one LoRA whose rank grows with each merge.

Shapes: I inputs and O outputs of a linear layer, R the sum of the ranks of all merged updates.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seal_lightning.core.errors import ConfigError, shown

Quantization = Literal["nf4"]
Updates = dict[str, tuple[Tensor, Tensor]]
"""(A [R, I], scaled B [O, R]) by the layer's name."""

_DEVICES = ("cpu", "cuda")
_A, _B = "merged_lora_A", "merged_lora_B"


def loading_options(quantization: str, dtype: str) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` besides the dtype, which is also the dtype of computation.

    Raises :class:`ConfigError` for an unknown quantisation, a dtype that cannot be quantised, and without bitsandbytes.
    """
    where = f"model.pretrained.quantization: {shown(quantization)} is not allowed"
    if quantization != "nf4":
        raise ConfigError(f"{where}; it must be 'nf4', or null for unquantised weights")
    if dtype == "float64":
        raise ConfigError(f"{where} with dtype 'float64'; set model.pretrained.dtype to bfloat16, float16 or float32")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{where} without bitsandbytes: pip install 'seal-lightning[quantized]', or set it to null")
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            bnb_4bit_use_double_quant=True,
        ),
        # Otherwise transformers takes the first GPU; Lightning decides where the model goes.
        "device_map": {"": "cpu"},
    }


def check_device(device: torch.device) -> None:
    """Raise :class:`ConfigError` for a device that does not support 4-bit weights."""
    if device.type not in _DEVICES:
        raise ConfigError(
            f"model.pretrained.quantization: 'nf4' is not allowed on {device.type}; it runs on {' and '.join(_DEVICES)}. Set "
            "it to null, or trainer.accelerator to one of these"
        )


def is_quantized(model: nn.Module) -> bool:
    """Return whether some weights are codes to which nothing can be added; also for checkpoints stored quantised."""
    return any(not parameter.is_floating_point() for parameter in model.parameters())


def has_float_weight(module: nn.Module) -> bool:
    """Return whether a layer's weight is floating point, so that updates can be merged into it."""
    return module.get_parameter("weight").is_floating_point()


def keep_layout(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking weights for AVX-512 in a pass without gradients: those have no backward pass."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


@torch.no_grad()
def add_unmerged(module: nn.Module, a_RI: Tensor, b_OR: Tensor) -> None:
    """Let the layer add B A to its output from now on, besides the updates that it adds already."""
    known, weight = _updates_of(module), module.get_parameter("weight")
    a_RI, b_OR = a_RI.detach().to(weight.device), b_OR.detach().to(weight.device)
    if known is not None:
        a_RI, b_OR = torch.cat([known[0], a_RI]), torch.cat([known[1], b_OR], dim=1)
    elif _A not in module._buffers:
        # First of the hooks, so that adapters get the layer's output as they would get a merged layer's.
        module.register_forward_hook(_add_updates, prepend=True)
    _set_updates(module, (a_RI.clone(), b_OR.clone()))


def unmerged_updates(model: nn.Module) -> Updates:
    """Return the updates that layers add; the tensors are never changed in place."""
    return {name: pair for name, module in model.named_modules() if (pair := _updates_of(module)) is not None}


def attach_unmerged(model: nn.Module, updates: Updates) -> None:
    """Replace the updates that layers add; with {} the model is as it was loaded."""
    for name, module in model.named_modules():
        if _A in module._buffers:
            _set_updates(module, updates.get(name))


def _updates_of(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    a, b = module._buffers.get(_A), module._buffers.get(_B)
    return None if a is None or b is None else (a, b)


def _set_updates(module: nn.Module, pair: tuple[Tensor, Tensor] | None) -> None:
    # Buffers move with the layer. They are not persistent: checkpoints hold the rounds' LoRAs instead.
    for name, tensor in zip((_A, _B), pair or (None, None), strict=True):
        module.register_buffer(name, tensor, persistent=False)


def _add_updates(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    pair = _updates_of(module)
    if pair is None:
        return output
    a_RI, b_OR = pair
    with torch.autocast(output.device.type, enabled=False):
        update = F.linear(F.linear(inputs[0].to(a_RI.dtype), a_RI), b_OR)
        return (output.to(a_RI.dtype) + update).to(output.dtype)
