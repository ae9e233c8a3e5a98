"""Bases in 4 bits: how they are loaded, and where they can be.

The weights of linear layers are kept as NF4 (QLoRA, arXiv 2305.14314) by bitsandbytes and dequantised layer by layer in every
pass; embeddings, norms and the output head stay as they are. Adapters beside them are float32, as always.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seal_lightning.core.errors import ConfigError, shown

Beside = dict[str, tuple[Tensor, Tensor]]

_A, _B = "merged_lora_A", "merged_lora_B"


def has_float_weight(module: nn.Module) -> bool:
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


Quantization = Literal["nf4"]

_DEVICES = ("cpu", "cuda")


def loading_options(quantization: str, dtype: str) -> dict[str, Any]:
    """What ``from_pretrained`` takes beside the dtype, which is also what is computed in.

    Raises :class:`ConfigError` for an unknown quantisation, a dtype that cannot be quantised, and without bitsandbytes.
    """
    where = f"model.pretrained.quantization: {shown(quantization)} is not allowed"
    if quantization != "nf4":
        raise ConfigError(f"{where}; it must be 'nf4', or null for the weights as they are")
    if dtype == "float64":
        raise ConfigError(f"{where} with dtype 'float64'; set model.pretrained.dtype to bfloat16, float16 or float32")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{where} without bitsandbytes: pip install 'seal-lightning[quantized]', or set it to null and load the weights "
            "as they are"
        )
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            bnb_4bit_use_double_quant=True,
        ),
        # Otherwise transformers takes the first GPU, whoever's turn it is; where the model goes is Lightning's to say.
        "device_map": {"": "cpu"},
    }


def check_device(device: torch.device) -> None:
    """Raise :class:`ConfigError` for a device that 4-bit weights were not made for."""
    if device.type not in _DEVICES:
        raise ConfigError(
            f"model.pretrained.quantization: 'nf4' is not allowed on {device.type}; it runs on {' and '.join(_DEVICES)}. Set "
            "it to null, or trainer.accelerator to one of these"
        )


def is_quantized(model: nn.Module) -> bool:
    """Whether weights are not numbers that can be added to: ours, or of a checkpoint that came quantised."""
    return any(not parameter.is_floating_point() for parameter in model.parameters())


def keep_layout(model: nn.Module) -> None:
    """Forbid bitsandbytes to repack weights for AVX-512 in the first pass without gradients: those have no backward pass."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False
