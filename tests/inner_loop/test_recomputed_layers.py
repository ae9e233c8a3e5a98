"""Gradient checkpointing: the same results from less memory."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from decoders import DECODERS, decoder
from fakes import weights_hash
from test_batched import plan_of, same, tensors
from torch.utils.checkpoint import CheckpointError

from seal_lightning.core import Adapted, AdapterSpec, AnchorSpec, OptimizerSpec, Segment, TrainingSequence
from seal_lightning.core.errors import ConfigError
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.whole_weights import FinetunedWeights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, applied, init_adapter, routed
from seal_lightning.models.packed import TokenizedSequence, gradient_checkpointed, pack
from seal_lightning.models.packed.gradient_checkpointing import recomputable_layers

SPEC = AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear")
ROW = [TokenizedSequence(token_ids=tuple(range(5, 5 + n)), trained=(False,) + (True,) * (n - 1)) for n in (9, 4, 6)]


def both_ways(language_model: LanguageModel, spec: AdapterSpec, **settings: object) -> float:
    """The largest difference of three adapters trained with and without, over the largest weight."""
    plans = [
        plan_of(adapter=spec, optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=size))
        for size in (1, 2, 3)
    ]
    results = []
    for wanted in (False, True):
        loop = BatchedInnerLoop(max_tokens_per_pass=60, gradient_checkpointing=wanted)
        loop.bind(language_model)
        results.append([t for result in loop.adapt(plans, [1, 2, 3]) for t in tensors(result)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", DECODERS)
def test_gradient_checkpointing_keeps_adapters(name: str) -> None:
    assert both_ways(decoder(name), SPEC) <= 1e-12


@pytest.mark.parametrize("layers", [None, (1,)])
def test_gradient_checkpointing_with_dropout_and_lower_layers(
    tiny64: LanguageModel, layers: tuple[int, ...] | None
) -> None:
    assert both_ways(tiny64, replace(SPEC, dropout=0.3, layers=layers)) <= 1e-12


def test_gradient_checkpointing_with_anchored_texts(tiny64: LanguageModel) -> None:
    held = TrainingSequence(segments=(Segment(text="The stone 9 is black.", trained=True),))
    plan = replace(plan_of(), anchor=AnchorSpec(sequences=(held,), weight=0.5, batch_size=1))
    results = []
    for wanted in (False, True):
        loop = BatchedInnerLoop(gradient_checkpointing=wanted)
        loop.bind(tiny64)
        results.append(tensors(loop.adapt([plan], [1])[0]))
    assert max(float((a - b).abs().max()) for a, b in zip(*results, strict=True)) <= 1e-12


def test_gradient_checkpointing_keeps_full_finetuning(tiny64: LanguageModel) -> None:
    before = weights_hash(tiny64.model)
    found = []
    for wanted in (False, True):
        loop = FullFinetuning(gradient_checkpointing=wanted)
        loop.bind(tiny64)
        (result,) = loop.adapt([plan_of()], [1])
        assert isinstance(result, Adapted)
        assert isinstance(result.adapter, FinetunedWeights)
        found.append(result.adapter.weights)
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) <= 1e-12
    assert weights_hash(tiny64.model) == before


def test_gradient_checkpointing_keeps_m_step_gradients(tiny64: LanguageModel) -> None:
    """Through autograd, as the policy trains."""
    row = pack(ROW, torch.device("cpu"))
    found = []
    for wanted in (False, True):
        adapter = init_adapter(tiny64.model, SPEC, torch.Generator().manual_seed(1))
        weights = [tensor.requires_grad_(True) for tensor in adapter.tensors()]
        with torch.no_grad():
            for tensor in weights:
                tensor.add_(0.01)
        with gradient_checkpointed(tiny64.model) if wanted else torch.enable_grad(), applied(tiny64.model, adapter):
            found.append(torch.autograd.grad(tiny64.packed(row).total, weights))
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) <= 1e-12
    assert all(gradient.any() for gradient in found[0][1::2])


def test_gradient_checkpointing_works_in_another_thread(tiny64: LanguageModel) -> None:
    """Autograd's threads for accelerators do not have the caller's context variables."""
    row, forward = pack(ROW, torch.device("cpu")), tiny64.packed
    adapter = init_adapter(tiny64.model, SPEC, torch.Generator().manual_seed(1))
    gradients = []
    for elsewhere in (False, True):
        into = {name: (torch.zeros_like(a), torch.zeros_like(b)) for name, (a, b) in adapter.weights.items()}
        share = AdapterRows(size=row.token_ids.numel(), adapter=adapter, gradients=into)
        with gradient_checkpointed(tiny64.model), routed(tiny64.model, [share]):
            total = forward(row).total
            if elsewhere:
                thread = threading.Thread(target=total.backward)
                thread.start()
                thread.join()
            else:
                total.backward()
        gradients.append([tensor for pair in into.values() for tensor in pair])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*gradients, strict=True))
    assert any(gradient.any() for gradient in gradients[1])


def test_gradient_checkpointing_notices_removed_hooks(tiny64: LanguageModel) -> None:
    row, forward = pack(ROW, torch.device("cpu")), tiny64.packed
    adapter = init_adapter(tiny64.model, SPEC, torch.Generator().manual_seed(1))
    share = AdapterRows(size=row.token_ids.numel(), adapter=adapter, gradients=adapter.weights)
    with gradient_checkpointed(tiny64.model), routed(tiny64.model, [share]):
        total = forward(row).total
    with pytest.raises((CheckpointError, RuntimeError)):
        total.backward()


def test_gradient_checkpointing_restores_the_layers(tiny: LanguageModel) -> None:
    with gradient_checkpointed(tiny.model):
        assert all("forward" in layer.__dict__ for layer in recomputable_layers(tiny.model))
    assert all("forward" not in layer.__dict__ for layer in recomputable_layers(tiny.model))


def test_gradient_checkpointing_refuses_unknown_layers(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "seal_lightning.models.packed.gradient_checkpointing.GradientCheckpointingLayer", torch.nn.Conv3d
    )
    for loop in (BatchedInnerLoop(gradient_checkpointing=True), FullFinetuning(gradient_checkpointing=True)):
        with pytest.raises(ConfigError, match="gradient_checkpointing: true is not allowed for a LlamaForCausalLM"):
            loop.bind(tiny)


def test_gradient_checkpointing_keeps_float32_adapters(tiny: LanguageModel) -> None:
    """One thread, the same products in the same order: bit for bit."""
    results = []
    for wanted in (False, True):
        loop = BatchedInnerLoop(gradient_checkpointing=wanted)
        loop.bind(tiny)
        results += loop.adapt([plan_of()], [1])
    assert same(*results)
