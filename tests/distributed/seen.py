"""A callback that keeps what ranks did, to be compared with one process: losses, LoRAs before merges, merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.distributed.tensor_shards import here


class Seen(Callback):
    """Writes ``rank{n}.pt`` into a folder: losses by step, the LoRA after each step, the layers' numbers held here, merged
    weights, and how many collectives E-steps had.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.losses: list[float] = []
        self.loras: list[list[torch.Tensor]] = []
        self.collectives_in_e_step = 0
        self._before = 0
        self.held = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._before = NUM_COLLECTIVES[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module: Any = pl_module
        if module.in_e_step:
            if batch_idx > 0:  # the first one gathers the layers that are then kept
                self.collectives_in_e_step += NUM_COLLECTIVES[0] - self._before
            return
        self.losses.append(float(outputs["loss"]))
        self.held = self.held or sum(here(weight).numel() for weight in module.policy.model.model.layers.parameters())
        self.loras.append([tensor.detach().cpu().clone() for tensor in getattr(module.policy, "lora", ())])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        weights = module.policy.whole_weights(keep=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        seen = {
            "losses": self.losses,
            "loras": self.loras,
            "weights": {name: weight.clone() for name, weight in weights.items()},
            "collectives_in_e_step": self.collectives_in_e_step,
            "held": self.held,
        }
        torch.save(seen, self.folder / f"rank{trainer.global_rank}.pt")


NUM_COLLECTIVES = [0]
"""How often this process took part in a collective."""


def _counted(collective: Any) -> Any:
    def counting(*args: Any, **kwargs: Any) -> Any:
        NUM_COLLECTIVES[0] += 1
        return collective(*args, **kwargs)

    return counting


for _name in ("all_gather_single", "all_gather_into_tensor", "broadcast", "all_reduce", "all_gather_object"):
    if hasattr(dist, _name):  # torch 2.13 gathers layers by the first, versions before it by the second
        setattr(dist, _name, _counted(getattr(dist, _name)))
