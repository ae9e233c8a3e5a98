"""LoRA adapters: tensors beside a frozen model, applied by hooks, stored as PEFT folders."""

from seal_lightning.lora.adapter import LoraAdapter, init_adapter, joined, layer_of, merge, target_modules
from seal_lightning.lora.applying import Share, applied, routed
from seal_lightning.lora.folders import load_adapter, save_adapter
from seal_lightning.lora.part import Dropout

__all__ = [
    "Dropout",
    "LoraAdapter",
    "Share",
    "applied",
    "init_adapter",
    "joined",
    "layer_of",
    "load_adapter",
    "merge",
    "routed",
    "save_adapter",
    "target_modules",
]
