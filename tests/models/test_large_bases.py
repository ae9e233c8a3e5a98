"""Whole runs with what makes large bases fit: bfloat16, 4 bits, gradient checkpointing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import weights_hash
from test_end_to_end import attempts, buffer, config, final_loras, fit

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    AdapterSpec,
    AttemptStatus,
    OptimizerSpec,
    Segment,
    TrainingSequence,
)
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, init_adapter, merge
from seal_lightning.models.packed import TokenizedSequence, gradient_checkpointed, pack
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training import m_step
from seal_lightning.training.policy import Policy

SPEC = AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear")
CHECKPOINTED = {
    "class_path": "seal_lightning.inner_loop.BatchedInnerLoop",
    "init_args": {"gradient_checkpointing": True},
}


def run(tmp_path: Path, folder: Path, name: str, pretrained: dict[str, Any] | None = None, **model: Any) -> Path:
    settings = config(folder, tmp_path / name, **model)
    settings["model"]["pretrained"] |= pretrained or {}
    assert fit(tmp_path, settings) == 0
    return tmp_path / name


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(tmp_path, tiny_folder, "plain")
    used: list[bool] = []
    monkeypatch.setattr(
        m_step,
        "gradient_checkpointed",
        lambda model, *, enabled: used.append(enabled) or gradient_checkpointed(model, enabled=enabled),
    )
    saving = run(tmp_path, tiny_folder, "saving", inner_loop=CHECKPOINTED, gradient_checkpointing=True)
    assert used
    assert all(used)
    for round_index in (0, 1):
        assert buffer(plain, round_index) == buffer(saving, round_index)
    for of_plain, of_saving in zip(final_loras(plain), final_loras(saving), strict=True):
        assert max(float((of_plain[k] - of_saving[k]).abs().max()) for k in of_plain) <= 1e-10


@pytest.mark.parametrize("quantization", [None, pytest.param("nf4", marks=pytest.mark.slow)])
def test_run_in_bfloat16(tiny_folder: Path, tmp_path: Path, quantization: str | None) -> None:
    """Two rounds: adapters and the policy's LoRA are float32, nothing diverges, both M-steps learn something."""
    if quantization is not None:
        pytest.importorskip("bitsandbytes")
    settings = {"dtype": "bfloat16", "quantization": quantization}
    run_dir = run(tmp_path, tiny_folder, "run", settings, inner_loop=CHECKPOINTED, gradient_checkpointing=True)
    for round_index in (0, 1):
        assert {attempt.status for attempt in attempts(run_dir, round_index)} == {AttemptStatus.SCORED}
    loras = final_loras(run_dir)
    assert len(loras) == 2
    for state in loras:
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert all(tensor.any() for tensor in state.values())


# --- bfloat16, step by step -------------------------------------------------------------------------------------------


@pytest.fixture
def tiny16(tiny_folder: Path) -> LanguageModel:
    return Pretrained(source=str(tiny_folder), dtype="bfloat16").load()


def test_bfloat16_adapters_are_close_to_float32(tiny16: LanguageModel, tiny: LanguageModel) -> None:
    sequences = tuple(
        TrainingSequence(segments=(Segment(text=f"The stone {n} is green.", trained=True),)) for n in range(4)
    )
    plan = AdaptationPlan(
        sequences=sequences, adapter=SPEC, optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=5, batch_size=2)
    )
    before = weights_hash(tiny16.model)
    losses = []
    for language_model in (tiny16, tiny):
        loop = BatchedInnerLoop()
        loop.bind(language_model)
        (result,) = loop.adapt([plan], [1])
        assert isinstance(result, Adapted)
        assert {tensor.dtype for tensor in result.adapter.tensors()} == {torch.float32}  # type: ignore[attr-defined]
        losses.append(result.losses)
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert weights_hash(tiny16.model) == before


def test_bfloat16_merges_round_once(tiny16: LanguageModel) -> None:
    """The sum is made in float32 and rounded to the weight's type at the end, not the update before it."""
    adapter = init_adapter(tiny16.model, SPEC, torch.Generator().manual_seed(1))
    for tensor in adapter.tensors():
        tensor.add_(0.03)
    before = {name: tiny16.model.get_submodule(name).weight.float() for name in adapter.weights}
    merge(tiny16.model, adapter)
    for name, (a, b) in adapter.weights.items():
        expected = (before[name] + b @ a * adapter.scaling).bfloat16()
        assert torch.equal(tiny16.model.get_submodule(name).weight, expected)


def test_bfloat16_policies_train_in_float32(tiny_folder: Path) -> None:
    policy = Policy(Pretrained(source=str(tiny_folder), dtype="bfloat16"), SPEC, seed=1)
    ids = tuple(range(5, 20))
    row = pack([TokenizedSequence(token_ids=ids, trained=(False, *[True] * 14))], torch.device("cpu"))
    forward = policy.language_model.packed
    with applied(policy.model, policy.adapter):
        forward(row).total.backward()
    gradients = [parameter.grad for parameter in policy.lora]
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}
    assert all(gradient is not None and gradient.any() for gradient in gradients[1::2])
