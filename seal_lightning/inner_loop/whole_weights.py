"""Weights that change for a while: a model's own, finetuned or merged into, and put back as they were.

Restored by copying: to subtract an update is not exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seal_lightning.core import Adapter, WholeModel
from seal_lightning.core.errors import ModelError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, attach_unmerged, unmerged_updates


@contextmanager
def scratch_weights(language_model: LanguageModel) -> Iterator[dict[str, Tensor]]:
    """Inside this block the model's weights may be changed; behind it they are bit for bit what they were before.

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
        """The model has these weights inside the block."""
        with scratch_weights(self.language_model):
            merge(self.language_model, self)
            yield


def merge(language_model: LanguageModel, adapter: Adapter) -> None:
    """Make an adaptation the model's own, for good or for the length of :func:`scratch_weights`.

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
