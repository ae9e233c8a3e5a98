"""A callback that keeps what ranks did, to be compared with one process: losses, LoRAs before merges, merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer


class Seen(Callback):
    """Writes ``rank{n}.pt`` into a folder: losses by step, the LoRA after each step, merged weights, kinds of weights."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.losses: list[float] = []
        self.loras: list[list[torch.Tensor]] = []
        self.gathered_in_e_step = 0
        self._gathered = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._gathered = NUM_GATHERED[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module: Any = pl_module
        if module.in_e_step:
            if batch_idx > 0:  # the first one gathers the layers that are then kept
                self.gathered_in_e_step += NUM_GATHERED[0] - self._gathered
            return
        self.losses.append(float(outputs["loss"]))
        self.loras.append([tensor.detach().cpu().clone() for tensor in getattr(module.policy, "lora", ())])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        weights = module.policy.whole_weights(keep=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        seen = {
            "losses": self.losses,
            "loras": self.loras,
            "weights": {name: weight.clone() for name, weight in weights.items()},
            "gathered_in_e_step": self.gathered_in_e_step,
            "peak": max((p.numel() for p in module.policy.model.parameters()), default=0),
        }
        torch.save(seen, self.folder / f"rank{trainer.global_rank}.pt")


NUM_GATHERED = [0]
"""How often this process took part in gathering a layer."""

_all_gather = dist.all_gather_into_tensor


def _counted(*args: Any, **kwargs: Any) -> Any:
    NUM_GATHERED[0] += 1
    return _all_gather(*args, **kwargs)


dist.all_gather_into_tensor = _counted
