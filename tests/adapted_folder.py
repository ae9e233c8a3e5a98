"""An adapted folder as ``seal adapt`` leaves one, with a random adapter that changes what the model says."""

from __future__ import annotations

from pathlib import Path

import torch

from seal_lightning.incorporation.folder import AdaptedFolder
from seal_lightning.incorporation.record import AdaptedRecord, Asking, BaseModel
from seal_lightning.lora import LoraAdapter, init_adapter, save_adapter
from seal_lightning.pretrained import Pretrained
from seal_lightning.types import AdapterSpec

ASKING = Asking(style="base", max_answer_tokens=12)
SPEC = AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear")


def random_lora(base: Path, seed: int) -> LoraAdapter:
    """An adapter of a model whose B is not zero."""
    model = Pretrained(source=str(base)).load().model
    generator = torch.Generator().manual_seed(seed)
    adapter = init_adapter(model, SPEC, generator)
    for _, b in adapter.weights.values():
        b.copy_(torch.randn(b.shape, generator=generator) * 0.3)
    return adapter


def write_adapted(folder: Path, base: Path, seed: int = 0, asking: Asking = ASKING) -> Path:
    """Write a whole folder; returns it."""
    adapted = AdaptedFolder(folder)
    save_adapter(random_lora(base, seed), adapted.adapter, base_model=str(base))
    adapted.edits.write_text("")
    adapted.write_record(AdaptedRecord(base=BaseModel(source=str(base)), asking=asking))
    return folder


def write_plain(folder: Path, base: Path | str, of: Path, seed: int = 0) -> Path:
    """Write a PEFT folder and nothing else, for the model ``of``, that names ``base``; returns it."""
    save_adapter(random_lora(of, seed), folder, base_model=str(base))
    return folder
