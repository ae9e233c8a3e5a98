"""LoRA adapters: tensors beside a frozen model, applied by hooks, saved as PEFT folders."""

from seal_lightning.models.lora.adapter import (
    LoraAdapter,
    init_adapter,
    layer_of,
    merge,
    scaled_adapter,
    sum_adapters,
    target_modules,
    truncated_adapter,
)
from seal_lightning.models.lora.applying import AdapterRows, applied, routed
from seal_lightning.models.lora.folders import base_of_adapter, load_adapter, save_adapter
from seal_lightning.models.lora.updates import Dropout
from seal_lightning.models.quantization import attach_unmerged, has_float_weight, unmerged_updates

__all__ = [
    "AdapterRows",
    "Dropout",
    "LoraAdapter",
    "applied",
    "attach_unmerged",
    "base_of_adapter",
    "has_float_weight",
    "init_adapter",
    "layer_of",
    "load_adapter",
    "merge",
    "routed",
    "save_adapter",
    "scaled_adapter",
    "sum_adapters",
    "target_modules",
    "truncated_adapter",
    "unmerged_updates",
]
