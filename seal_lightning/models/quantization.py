"""Bases in 4 bits: how they are loaded, and where they can be.

The weights of linear layers are kept as NF4 (QLoRA, arXiv 2305.14314) by bitsandbytes and dequantised layer by layer in every
pass; embeddings, norms and the output head stay as they are. Adapters beside them are float32, as always.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from seal_lightning.core.errors import ConfigError, shown

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
