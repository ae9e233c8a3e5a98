"""Updates made smaller, against torch on the whole matrices: of LoRA adapters and of finetuned weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seal_lightning.core import Adapter, AdapterSpec
from seal_lightning.core.errors import ModelError
from seal_lightning.inner_loop.whole_weights import FinetunedWeights, merge, scaled, scratch_weights, truncated
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, init_adapter


def lora(language_model: LanguageModel, rank: int = 6) -> LoraAdapter:
    generator = torch.Generator().manual_seed(1)
    spec = AdapterSpec(rank=rank, alpha=3.0, target_modules="all-linear")
    adapter = init_adapter(language_model.model, spec, generator)
    for _, b in adapter.weights.values():
        b.copy_(torch.randn(b.shape, generator=generator, dtype=b.dtype))
    return adapter


def finetuned(language_model: LanguageModel) -> FinetunedWeights:
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: parameter + 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        for name, parameter in language_model.model.named_parameters()
    }
    return FinetunedWeights(language_model, weights)


def updates(language_model: LanguageModel, adapter: Adapter) -> dict[str, Tensor]:
    """What merging changes."""
    with scratch_weights(language_model) as before:
        merge(language_model, adapter)
        after = {name: parameter.detach().clone() for name, parameter in language_model.model.named_parameters()}
    return {name: after[name] - before[name] for name in after}


@pytest.mark.parametrize("make", [lora, finetuned])
def test_scaled(tiny64: LanguageModel, make: type) -> None:
    adapter = make(tiny64)
    whole, part = updates(tiny64, adapter), updates(tiny64, scaled(tiny64, adapter, 0.25))
    assert any(update.any() for update in whole.values())
    for name, update in whole.items():
        assert torch.allclose(part[name], 0.25 * update, atol=1e-12)


@pytest.mark.parametrize("make", [lora, finetuned])
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_truncated(tiny64: LanguageModel, make: type, rank: int) -> None:
    """The nearest matrix of the rank, by torch on the whole update; norms stay as they are; a higher rank changes nothing."""
    adapter = make(tiny64)
    whole, part = updates(tiny64, adapter), updates(tiny64, truncated(tiny64, adapter, rank))
    for name, update in whole.items():
        expected = update
        if update.dim() == 2:
            left, strength, right = torch.linalg.svd(update, full_matrices=False)
            expected = (left[:, :rank] * strength[:rank]) @ right[:rank]
            assert int(torch.linalg.matrix_rank(part[name], atol=1e-9)) <= rank
        assert torch.allclose(part[name], expected, atol=1e-10), name


def test_truncated_keeps_an_adapter_of_lower_rank(tiny64: LanguageModel) -> None:
    adapter = lora(tiny64)
    assert truncated(tiny64, adapter, 6) is adapter


def test_truncated_handles_small_layers(tiny64: LanguageModel) -> None:
    adapter = lora(tiny64, rank=40)  # the layers have 16 to 64 inputs and outputs
    whole, part = updates(tiny64, adapter), updates(tiny64, truncated(tiny64, adapter, 36))
    for name, update in whole.items():
        if min(update.shape) <= 36:
            assert torch.allclose(part[name], update, atol=1e-10), name


def test_scaled_refuses_other_adapters(tiny64: LanguageModel) -> None:
    for change in (scaled, truncated):
        with pytest.raises(ModelError, match="is not an update of a model's weights"):
            change(tiny64, Adapter(), 1)  # type: ignore[arg-type]
