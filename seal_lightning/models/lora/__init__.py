"""LoRA adapters: tensors beside a frozen model, applied by hooks, stored as PEFT folders."""

from seal_lightning.models.lora.adapter import LoraAdapter, init_adapter, joined, layer_of, merge, target_modules
from seal_lightning.models.lora.applying import Share, applied, routed
from seal_lightning.models.lora.beside import kept_beside, put_beside, takes_additions
from seal_lightning.models.lora.folders import base_of_adapter, load_adapter, save_adapter
from seal_lightning.models.lora.part import Dropout
from seal_lightning.models.lora.resizing import scaled_adapter, truncated_adapter

__all__ = [
    "Dropout",
    "LoraAdapter",
    "Share",
    "applied",
    "base_of_adapter",
    "init_adapter",
    "joined",
    "kept_beside",
    "layer_of",
    "load_adapter",
    "merge",
    "put_beside",
    "routed",
    "save_adapter",
    "scaled_adapter",
    "takes_additions",
    "target_modules",
    "truncated_adapter",
]
