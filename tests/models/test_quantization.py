"""Bases in 4 bits: what is computed is what the dequantised weights say, rounds stay exact, and what cannot be is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import ToyDomain, weights_hash
from torch import nn

from seal_lightning.core import AdaptationPlan, Adapted, AdapterSpec, OptimizerSpec, Segment, TrainingSequence
from seal_lightning.core.errors import ConfigError
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models import lora
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, init_adapter, load_adapter, merge
from seal_lightning.models.packed import TokenizedSequence, gradient_checkpointed, pack
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.models.quantization import check_device, is_quantized
from seal_lightning.training.full_policy import FullPolicy
from seal_lightning.training.module import SealModule
from seal_lightning.training.policy import Policy
from seal_lightning.training.sharded_strategy import ShardedStrategy, spread

SPEC = AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear")
ROW = [TokenizedSequence(token_ids=tuple(range(5, 5 + n)), trained=(False,) + (True,) * (n - 1)) for n in (9, 4, 6)]


def plan(dropout: float = 0.0) -> AdaptationPlan:
    texts = ("The stone 1 is green.", "The stone 2 is blue, and it is known to be blue.")
    return AdaptationPlan(
        sequences=tuple(TrainingSequence(segments=(Segment(text=text, trained=True),)) for text in texts),
        adapter=AdapterSpec(rank=4, alpha=8.0, dropout=dropout, target_modules="all-linear"),
        optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=4, batch_size=1),
    )


@pytest.fixture
def nf4(tiny_folder: Path) -> LanguageModel:
    pytest.importorskip("bitsandbytes")
    return Pretrained(source=str(tiny_folder), quantization="nf4").load()


def dequantized(language_model: LanguageModel) -> LanguageModel:
    """The same model with plain linear layers of the weights that the codes stand for."""
    from bitsandbytes.functional import dequantize_4bit

    model: Any = copy.deepcopy(language_model.model)
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "Linear4bit":
            source = language_model.model.get_submodule(name)
            plain = nn.Linear(module.in_features, module.out_features, bias=False)
            plain.weight = nn.Parameter(dequantize_4bit(source.weight.data, source.weight.quant_state).float())
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, plain)
    del model.config.quantization_config
    return LanguageModel(model, language_model.tokenizer)


def adapted(language_model: LanguageModel, dropout: float = 0.0, **settings: Any) -> list[torch.Tensor]:
    loop = BatchedInnerLoop(**settings)
    loop.bind(language_model)
    (result,) = loop.adapt([plan(dropout)], [1])
    assert isinstance(result, Adapted), result
    assert result.losses[-1] < result.losses[0]
    return result.adapter.tensors()  # type: ignore[attr-defined]


def test_nf4_quantises_linear_layers_only(nf4: LanguageModel) -> None:
    kinds = {name: module.weight.dtype for name, module in nf4.model.named_modules() if isinstance(module, nn.Linear)}
    assert {kind for name, kind in kinds.items() if name != "lm_head"} == {torch.uint8}
    assert kinds["lm_head"] is torch.float32
    assert is_quantized(nf4.model)
    assert not any(parameter.requires_grad for parameter in nf4.model.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nf4_adapters_equal_dequantised_ones(nf4: LanguageModel, dropout: float, checkpointing: bool) -> None:
    before = weights_hash(nf4.model)
    found = adapted(nf4, dropout, gradient_checkpointing=checkpointing)
    expected = adapted(dequantized(nf4), dropout)
    assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-4
    assert all(tensor.dtype is torch.float32 for tensor in found)
    assert weights_hash(nf4.model) == before


def test_nf4_changes_predictions(nf4: LanguageModel, tiny: LanguageModel) -> None:
    """Otherwise the comparison above would prove nothing."""
    found, full = adapted(nf4), adapted(tiny)
    assert max(float((a - b).abs().max()) for a, b in zip(found, full, strict=True)) > 1e-3


def test_nf4_keeps_layout_without_gradients(tiny_folder: Path) -> None:
    """In bfloat16, which a processor with AVX-512 would repack for."""
    pytest.importorskip("bitsandbytes")
    language_model = Pretrained(source=str(tiny_folder), dtype="bfloat16", quantization="nf4").load()
    before, row = weights_hash(language_model.model), pack(ROW, torch.device("cpu"))
    with torch.no_grad():
        language_model.packed(row)
    assert weights_hash(language_model.model) == before
    assert {tensor.dtype for tensor in adapted(language_model)} == {torch.float32}


def test_unmerged_updates_are_exact_and_removable(nf4: LanguageModel) -> None:
    plain, row = dequantized(nf4), pack(ROW, torch.device("cpu"))
    untouched = nf4.packed(row).losses
    with scratch_weights(nf4):
        for seed in (1, 2):
            adapter = random_adapter(nf4, seed)
            merge(nf4.model, adapter)
            merge(plain.model, adapter)
        merged = nf4.packed(row).losses
        assert torch.allclose(merged, plain.packed(row).losses, atol=1e-4)
        assert not torch.allclose(merged, untouched, atol=1e-2)
        with scratch_weights(nf4):
            merge(nf4.model, random_adapter(nf4, 3))
            assert not torch.equal(nf4.packed(row).losses, merged)
        assert torch.equal(nf4.packed(row).losses, merged)
    assert torch.equal(nf4.packed(row).losses, untouched)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_unmerged_updates_pass_gradients(nf4: LanguageModel, checkpointing: bool) -> None:
    plain, row = dequantized(nf4), pack(ROW, torch.device("cpu"))
    found = []
    for language_model in (nf4, plain):
        merge(language_model.model, random_adapter(nf4, 1))
        forward, adapter = language_model.packed, random_adapter(nf4, 2)
        weights = [tensor.requires_grad_(True) for tensor in adapter.tensors()]
        block = gradient_checkpointed(language_model.model) if checkpointing else torch.enable_grad()
        with block, applied(language_model.model, adapter):
            found.append(torch.autograd.grad(forward(row).total, weights))
    assert max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True)) < 1e-3


def test_policy_rounds_on_nf4(nf4: LanguageModel, tiny_folder: Path, tmp_path: Path) -> None:
    """Each is exact, can be gone back to and comes back from a checkpoint bit for bit; exported, it is a PEFT adapter."""
    pretrained = Pretrained(source=str(tiny_folder), quantization="nf4")
    policy, row = Policy(pretrained, SPEC, seed=3), pack(ROW, torch.device("cpu"))
    losses = [policy.language_model.packed(row).losses]
    for round_index in range(2):
        generator = torch.Generator().manual_seed(round_index)
        with torch.no_grad():
            for parameter in policy.lora:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        policy.merge_round()
        losses.append(policy.language_model.packed(row).losses)
    assert not torch.allclose(losses[1], losses[2], atol=1e-3)
    for num_rounds in (0, 2, 1):
        policy.go_to(num_rounds)
        assert torch.equal(policy.language_model.packed(row).losses, losses[num_rounds])
    other = Policy(pretrained, SPEC, seed=3)
    other.load_merged_states(policy.merged_states())
    assert torch.equal(other.language_model.packed(row).losses, losses[2])
    plain = dequantized(nf4)
    policy.export(tmp_path / "policy", "adapter", {})
    merge(plain.model, load_adapter(plain.model, tmp_path / "policy"))
    assert torch.allclose(plain.packed(row).losses, losses[2], atol=1e-4)
    with pytest.raises(ConfigError, match=r"PolicyExport\.kind: 'merged' is not allowed"):
        policy.export(tmp_path / "merged", "merged", {})
    assert "merged_lora_A" not in "".join(policy.state_dict()), "checkpoints hold the rounds, not their sum"


def test_full_finetuning_rejects_nf4(nf4: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"FullFinetuning is not allowed with a model in 4 bits"):
        FullFinetuning().bind(nf4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int3"}, "quantization: 'int3' is not allowed; it must be 'nf4', or null"),
        ({"quantization": "nf4", "dtype": "float64"}, "with dtype 'float64'; set model.pretrained.dtype to bfloat16"),
    ],
)
def test_loading_options_reject_invalid_settings(tiny_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pretrained(source=str(tiny_folder), **settings).load()


def test_loading_options_require_bitsandbytes(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seal_lightning.models.quantization.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'seal-lightning\[quantized\]'"):
        Pretrained(source=str(tiny_folder), quantization="nf4").load()


def test_check_device_rejects_other_devices() -> None:
    check_device(torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"'nf4' is not allowed on mps; it runs on cpu and cuda"):
        check_device(torch.device("mps"))


def random_adapter(language_model: LanguageModel, seed: int) -> lora.LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    adapter = init_adapter(language_model.model, SPEC, generator)
    for tensor in adapter.tensors():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return adapter


@pytest.mark.parametrize("whose", ["pretrained", "student"])
def test_run_on_other_device_fails_at_start(tiny_folder: Path, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Pretrained(source=str(tiny_folder))
    models = {"pretrained": plain, whose: replace(plain, quantization="nf4")}
    module = SealModule(ToyDomain(), **models)
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("mps")))  # type: ignore[assignment]
    monkeypatch.setattr(Pretrained, "load", lambda self, **_: pytest.fail("it was read"))
    with pytest.raises(ConfigError, match="'nf4' is not allowed on mps"):
        module.configure_model()


def test_nf4_is_neither_sharded_nor_finetuned(tiny_folder: Path, nf4: LanguageModel) -> None:
    codes = Pretrained(source=str(tiny_folder), quantization="nf4")
    with pytest.raises(ConfigError, match="policy_adapter: null is not allowed with quantised weights"):
        FullPolicy(codes, seed=1)
    plain = Policy(Pretrained(source=str(tiny_folder)), SPEC, seed=1)
    for policy, student in ((Policy(codes, SPEC, seed=1), None), (plain, nf4.model)):
        with pytest.raises(ConfigError, match="quantised weights are not allowed with ShardedStrategy"):
            spread(policy, ShardedStrategy(), 2, TransformersEngine(), None, student)
