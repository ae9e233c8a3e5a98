"""Each round's policy as a standard folder that other tools load."""

from __future__ import annotations

from typing import Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.storage.atomic_files import placing_folder
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.full_policy import FullPolicy
from seal_lightning.training.module import SealModule


class PolicyExport(Callback):
    """Writes ``round_{r}/policy/`` after each M-step.

    Args:
        kind: ``adapter`` for a PEFT adapter of the base model whose update is the sum of all rounds' (its rank grows by
            the policy adapter's each round), ``merged`` for a full model.

    Example:
        >>> PolicyExport(kind="merged").kind
        'merged'
    """

    def __init__(self, kind: Literal["adapter", "merged"] = "adapter") -> None:
        self.kind: Literal["adapter", "merged"] = kind

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise :class:`ConfigError` where the policy cannot be exported, before anything is computed."""
        cast(SealModule, pl_module).loaded_policy.check_export(self.kind)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the policy after an M-step."""
        module = cast(SealModule, pl_module)
        policy = module.loaded_policy
        if module.in_e_step or isinstance(policy, FullPolicy):  # which keeps its rounds as such folders
            return
        weights = policy.whole_weights(keep=trainer.is_global_zero) if self.kind == "merged" else {}
        if trainer.is_global_zero:
            with placing_folder(RunDir.of(trainer).round(module.round_index) / "policy") as folder:
                policy.export(folder, self.kind, weights)
