"""LoRA adapters: tensors beside a frozen model, applied by hooks, stored as PEFT folders."""

from seal_lightning.lora.adapter import LoraAdapter, init_adapter, joined, merge, target_modules
from seal_lightning.lora.applying import Dropout, Share, applied, routed
from seal_lightning.lora.folders import load_adapter, save_adapter

__all__ = [
    "Dropout",
    "LoraAdapter",
    "Share",
    "applied",
    "init_adapter",
    "joined",
    "load_adapter",
    "merge",
    "routed",
    "save_adapter",
    "target_modules",
]
