"""The grouped products that an accelerator takes, run here on the CPU, against one product an adapter."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder
from torch import Tensor

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    GenerationRequest,
    OptimizerSpec,
    SamplingSpec,
    ScoreRequest,
    Segment,
    TrainingSequence,
)
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.models.lora import LoraAdapter, applying, init_adapter
from seal_lightning.models.lora.updates import Dropout, RowUpdate, fits_grouping

TEXTS = ("The stone 1 is green.", "It is known that the stone 2 is blue.", "Question: what? Answer: red")
SPECS = (
    AdapterSpec(rank=3, alpha=6.0),
    AdapterSpec(rank=16, alpha=4.0, target_modules="all-linear"),
    AdapterSpec(rank=8, alpha=8.0, target_modules=("v_proj", "up_proj"), layers=(1,)),
)


def plans() -> list[AdaptationPlan]:
    return [
        AdaptationPlan(
            sequences=tuple(TrainingSequence(segments=(Segment(text=text),)) for text in TEXTS[: 1 + i]),
            adapter=spec,
            optimizer=OptimizerSpec(learning_rate=1e-2, max_steps=4, batch_size=1 + i),
        )
        for i, spec in enumerate(SPECS)
    ]


class Counted:
    """Lets every layer be grouped, and counts."""

    def __init__(self) -> None:
        self.layers = 0

    def __call__(self, x: Tensor, output: Tensor, parts: list[RowUpdate]) -> bool:
        self.layers += 1
        return True


def test_grouped_training_equals_single_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where both are exact to rounding: ragged ranks, modules and layers, and rows of no adapter between."""
    loop = BatchedInnerLoop()
    loop.bind(decoder("llama", torch.float32))
    expected = loop.adapt(plans(), [1, 2, 3])
    counted = Counted()
    monkeypatch.setattr(applying, "can_be_grouped", counted)
    for one, other in zip(loop.adapt(plans(), [1, 2, 3]), expected, strict=True):
        assert isinstance(one, Adapted)
        assert isinstance(other, Adapted)
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert isinstance(one.adapter, LoraAdapter)
        assert isinstance(other.adapter, LoraAdapter)
        for a, b in zip(one.adapter.tensors(), other.adapter.tensors(), strict=True):
            assert (a - b).abs().max() <= 1e-3 * b.abs().max()
    assert counted.layers > 0


def test_grouped_generation_equals_single_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    language_model = decoder("llama", torch.float32)
    adapters: list[LoraAdapter | None] = [None]
    for seed, spec in enumerate(SPECS):
        generator = torch.Generator().manual_seed(seed)
        adapter = init_adapter(language_model.model, spec, generator)
        for _, b in adapter.weights.values():
            b.copy_(torch.randn(b.shape, generator=generator) * 0.3)
        adapters += [adapter, None]
    engine = TransformersEngine()
    engine.bind(language_model)
    cases = [(text, adapter) for text in TEXTS for adapter in adapters]
    scores = [ScoreRequest(prompt=text, target=" red stone", adapter=adapter) for text, adapter in cases]
    greedy = SamplingSpec(temperature=0.0, max_new_tokens=6)
    texts = [GenerationRequest(prompt=text, sampling=greedy, adapter=adapter) for text, adapter in cases]
    expected = engine.score(scores), [c.token_ids for c in engine.generate(texts)]
    counted = Counted()
    monkeypatch.setattr(applying, "can_be_grouped", counted)
    for one, other in zip(engine.score(scores), expected[0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert [c.token_ids for c in engine.generate(texts)] == expected[1]
    assert counted.layers > 0


def test_grouped_losses_in_bfloat16_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = BatchedInnerLoop()
    loop.bind(decoder("llama", torch.bfloat16))
    expected = loop.adapt(plans(), [1, 2, 3])
    monkeypatch.setattr(applying, "can_be_grouped", fits_grouping)
    for one, other in zip(loop.adapt(plans(), [1, 2, 3]), expected, strict=True):
        assert isinstance(one, Adapted)
        assert isinstance(other, Adapted)
        assert one.losses == pytest.approx(other.losses, rel=0.03)


def part(dropout: Dropout | None = None) -> RowUpdate:
    return RowUpdate(
        start=0, stop=1, a=torch.ones(2, 16), b=torch.ones(16, 2), scaling=1.0, gradients=None, dropout=dropout
    )


@pytest.mark.parametrize(
    ("dtype", "width", "parts", "fits"),
    [
        (torch.bfloat16, 16, [part(), part()], True),
        (torch.float32, 16, [part(), part()], False),
        (torch.bfloat16, 12, [part(), part()], False),
        (torch.bfloat16, 16, [part()], True),
        (torch.bfloat16, 16, [part(), part(Dropout(rate=0.1, sizes=(1,), generators=(torch.Generator(),)))], False),
    ],
)
def test_fits_grouping(dtype: torch.dtype, width: int, parts: list[RowUpdate], fits: bool) -> None:
    x = torch.zeros(4, width, dtype=dtype)
    assert fits_grouping(x, x, parts) == fits
    assert not applying.can_be_grouped(x, x, parts)  # on a CPU one product an adapter is faster
