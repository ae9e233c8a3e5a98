"""The policy of a run at its start, and checks of its placement."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from torch import nn

from seal_lightning.core import AdapterSpec
from seal_lightning.distributed.rank_consistency import require_agreement, weights_part
from seal_lightning.models.packed.gradient_checkpointing import recomputable_layers
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.models.quantization import check_device, is_quantized
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.full_policy import FullPolicy
from seal_lightning.training.policy import Policy


def load_policy(
    pretrained: Pretrained,
    adapter: AdapterSpec | None,
    seed: int,
    *,
    trainer: Trainer | None,
    run_dir: Path | None,
    gradient_checkpointing: bool,
) -> Policy:
    """Return the pretrained policy. With a trainer of several ranks this is a collective.

    Args:
        pretrained: source of the weights.
        adapter: the LoRA that M-steps train; None for all weights.
        seed: of the run.
        trainer: of the run, if there is one.
        run_dir: the run directory, where there is no trainer.
        gradient_checkpointing: whether M-steps recompute layers.

    Raises :class:`ConfigError` where the model cannot be trained so, and where ranks have loaded different weights.
    """
    together = trainer is not None
    policy = (
        FullPolicy(pretrained, seed, together=together)
        if adapter is None
        else Policy(pretrained, adapter, seed, together=together)
    )
    policy.run_dir = run_dir if trainer is None else RunDir.of(trainer).path
    if gradient_checkpointing:
        recomputable_layers(policy.model)
    if trainer is not None:
        check_placement(policy.model, trainer)
        if trainer.world_size > 1:
            vocabulary = policy.language_model.tokenizer.get_vocab()
            require_agreement(weights_part(policy.model, vocabulary))
    return policy


def check_sources(trainer: Trainer, *sources: Pretrained | None) -> None:
    """Raise :class:`ConfigError` for a device that does not support the quantisation, before the model is read."""
    if any(source is not None and source.quantization is not None for source in sources):
        check_device(trainer.strategy.root_device)


def check_placement(model: nn.Module, trainer: Trainer) -> None:
    """Raise the same for a loaded model: its checkpoint may be quantised itself."""
    if is_quantized(model):
        check_device(trainer.strategy.root_device)
