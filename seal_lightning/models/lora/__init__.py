"""LoRA adapters: tensors beside a frozen model, applied by hooks, stored as PEFT folders."""

from seal_lightning.models.lora.adapter import LoraAdapter, init_adapter, joined, layer_of, merge, target_modules
from seal_lightning.models.lora.applying import Share, applied, routed
from seal_lightning.models.lora.folders import base_of_adapter, load_adapter, save_adapter
from seal_lightning.models.lora.part import Dropout
from seal_lightning.models.lora.resizing import scaled_adapter, truncated_adapter
from seal_lightning.models.lora.unmerged import attach_unmerged, takes_additions, unmerged_updates

__all__ = [
    "Dropout",
    "LoraAdapter",
    "Share",
    "applied",
    "attach_unmerged",
    "base_of_adapter",
    "init_adapter",
    "joined",
    "layer_of",
    "load_adapter",
    "merge",
    "routed",
    "save_adapter",
    "scaled_adapter",
    "takes_additions",
    "target_modules",
    "truncated_adapter",
    "unmerged_updates",
]
