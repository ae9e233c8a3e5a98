"""An adaptation as an update of the model's weights, made smaller before it is merged: scaled, or of lower rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seal_lightning.core import Adapter
from seal_lightning.core.errors import ModelError
from seal_lightning.inner_loop.whole_weights import FinetunedWeights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, scaled_adapter, truncated_adapter


def scaled(language_model: LanguageModel, adapter: Adapter, factor: float) -> Adapter:
    """The adapter whose update of the model's present weights is ``factor`` in (0, 1] times as large.

    Raises :class:`ModelError` for an adapter that is neither a LoRA nor a model's weights.
    """
    if isinstance(adapter, LoraAdapter):
        return scaled_adapter(adapter, factor)
    return _changed(language_model, adapter, lambda update: update * factor)


def truncated(language_model: LanguageModel, adapter: Adapter, rank: int) -> Adapter:
    """The adapter whose update of each weight matrix is the nearest one of rank ``rank`` ≥ 1.

    What is no matrix (norms and biases, which full finetuning changes) is updated as it was. Raises as :func:`scaled`.
    """
    if isinstance(adapter, LoraAdapter):
        return truncated_adapter(adapter, rank)
    return _changed(language_model, adapter, lambda update: _nearest(update, rank) if update.dim() == 2 else update)


@torch.no_grad()
def _changed(language_model: LanguageModel, adapter: Adapter, change: Callable[[Tensor], Tensor]) -> Adapter:
    if not isinstance(adapter, FinetunedWeights):
        raise ModelError(f"a {type(adapter).__name__} is no update of a model's weights, so it cannot be made smaller")
    weights = {}
    for name, parameter in language_model.model.named_parameters():
        wide = torch.promote_types(parameter.dtype, torch.float32)
        before = parameter.detach().cpu().to(wide)
        update = change(adapter.weights[name].to(wide) - before)
        weights[name] = (before + update).to(parameter.dtype)
    return FinetunedWeights(language_model, weights)


def _nearest(update: Tensor, rank: int) -> Tensor:
    left, strength, right = torch.linalg.svd(update, full_matrices=False)
    nearest: Tensor = (left[:, :rank] * strength[:rank]) @ right[:rank]
    return nearest
