"""Temporary changes of a model's own weights: finetuned, merged into, restored; and smaller versions of an update.

Weights are restored by copying, because subtracting an update is not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seal_lightning.core import Adapter, WholeModel
from seal_lightning.core.errors import ModelError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, attach_unmerged, scaled_adapter, truncated_adapter, unmerged_updates


def scaled(language_model: LanguageModel, adapter: Adapter, factor: float) -> Adapter:
    """Return the adapter whose update of the model's present weights is ``factor`` in (0, 1] times as large.

    Raises :class:`ModelError` for an adapter that is neither a LoRA nor a model's weights.
    """
    if isinstance(adapter, LoraAdapter):
        return scaled_adapter(adapter, factor)
    return _changed(language_model, adapter, lambda update: update * factor)


def truncated(language_model: LanguageModel, adapter: Adapter, rank: int) -> Adapter:
    """Return the adapter whose update of each weight matrix is the nearest one of rank ``rank`` ≥ 1.

    Vectors (norms and biases, which full finetuning changes) keep their update. Raises as :func:`scaled`.
    """
    if isinstance(adapter, LoraAdapter):
        return truncated_adapter(adapter, rank)
    return _changed(language_model, adapter, lambda update: _nearest(update, rank) if update.dim() == 2 else update)


@torch.no_grad()
def _changed(language_model: LanguageModel, adapter: Adapter, change: Callable[[Tensor], Tensor]) -> Adapter:
    if not isinstance(adapter, FinetunedWeights):
        raise ModelError(f"a {type(adapter).__name__} is not an update of a model's weights and cannot be made smaller")
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


@contextmanager
def scratch_weights(language_model: LanguageModel) -> Iterator[dict[str, Tensor]]:
    """Let the model's weights be changed inside this block; after it they are bit for bit what they were before.

    Yields the weights as they were, by name, on the CPU.
    """
    model, merged = language_model.model, language_model.merged
    before = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    beside = unmerged_updates(model)
    try:
        yield before
    finally:
        _write(model, before)
        language_model.merged = merged
        attach_unmerged(model, beside)


class FinetunedWeights(WholeModel):
    """All weights of a model after finetuning, kept on the CPU."""

    def __init__(self, language_model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
        self.language_model = language_model
        self.weights = dict(weights)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install these weights in the model inside the block."""
        with scratch_weights(self.language_model):
            merge(self.language_model, self)
            yield


def merge(language_model: LanguageModel, adapter: Adapter) -> None:
    """Merge an adaptation into the model's weights, permanently or inside :func:`scratch_weights`.

    Raises :class:`ModelError` for an adapter that is neither a LoRA nor a model's weights.
    """
    if isinstance(adapter, LoraAdapter):
        language_model.merge(adapter)
    elif isinstance(adapter, FinetunedWeights):
        _write(language_model.model, adapter.weights)
        language_model.merged = None
    else:
        raise ModelError(f"a {type(adapter).__name__} cannot be merged into a model's weights")


@torch.no_grad()
def _write(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
