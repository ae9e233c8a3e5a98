"""The formula of docs/memory.md: against what autograd keeps, the hub's parameter counts, the page's table, and a planner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from benchmarks import memory_table
from benchmarks.decoder_sizes import DECODERS, SMOLLM2_135M
from benchmarks.memory_formula import (
    Decoder,
    Work,
    base_weights,
    full_finetuning,
    inner_loop,
    kept_per_token,
    m_step,
    sharded,
)
from fakes import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from seal_lightning.core import AdapterSpec
from seal_lightning.inner_loop import BatchedInnerLoop, memory
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, init_adapter
from seal_lightning.models.packed import TokenizedSequence, pack

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")

COUNTS = {
    "SmolLM2-135M": 134_515_008,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Llama-3.1-70B": 70_553_706_496,
}
"""As the hub shows them for each model's safetensors."""


def test_parameters_are_the_hub_s() -> None:
    assert {decoder.name: decoder.parameters for decoder in DECODERS} == COUNTS


def small(biased: bool) -> Decoder:
    return Decoder(
        name="small",
        source="",
        hidden=96,
        intermediate=224,
        layers=3,
        heads=6,
        kv_heads=2,
        head_dim=16,
        vocabulary=len(tiny_tokenizer()),
        tied=biased,
        qkv_bias=biased,
    )


def made(decoder: Decoder, dtype: torch.dtype) -> LanguageModel:
    kind, of = (Qwen2ForCausalLM, Qwen2Config) if decoder.qkv_bias else (LlamaForCausalLM, LlamaConfig)
    config = of(
        vocab_size=decoder.vocabulary,
        hidden_size=decoder.hidden,
        intermediate_size=decoder.intermediate,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        tie_word_embeddings=decoder.tied,
    )
    return LanguageModel(kind(config).to(dtype), tiny_tokenizer())


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_agrees_with_what_is_counted_on_a_model(biased: bool, dtype: torch.dtype, checkpointing: bool) -> None:
    """Weights and adapters exactly, a token's activations to 5 %: the planner counts what autograd keeps."""
    decoder = small(biased)
    language_model = made(decoder, dtype)
    assert sum(p.numel() for p in language_model.model.parameters()) == decoder.parameters
    loop = BatchedInnerLoop(gradient_checkpointing=checkpointing)
    loop.bind(language_model)
    needs = loop._memory_needs(AdapterSpec(rank=8, target_modules="all-linear"))
    assert needs.result == 4 * decoder.adapter_parameters(8)
    assert needs.per_adapter == 4 * needs.result
    layer = kept_per_token(decoder, dtype.itemsize, 8)
    expected = layer * decoder.layers
    if checkpointing:
        last_norm = 4 * decoder.hidden  # otherwise made up for by the first, whose input needs no gradient
        expected = decoder.layers * dtype.itemsize * decoder.hidden + layer + last_norm
    assert needs.per_token / memory._TRANSIENT == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_agrees_with_what_the_m_step_keeps(dtype: torch.dtype) -> None:
    decoder = small(biased=False)
    language_model = made(decoder, dtype)
    spec = AdapterSpec(rank=8, target_modules="all-linear")
    adapter = init_adapter(language_model.model, spec, torch.Generator().manual_seed(1))
    weights = [tensor.requires_grad_(True) for tensor in adapter.tensors()]
    sequence = TokenizedSequence(token_ids=tuple(range(5, 69)), trained=(False, *[True] * 63))
    row, forward = pack([sequence], torch.device("cpu")), language_model.packed

    def step() -> object:
        with applied(language_model.model, adapter):
            return forward(row)

    kept = memory._kept_for_backward(language_model.model, weights, step) / 64
    expected = decoder.layers * kept_per_token(decoder, dtype.itemsize, 8, by_autograd=True)
    assert kept == pytest.approx(expected, rel=0.05)


def test_the_page_has_the_table_the_code_makes() -> None:
    assert memory_table.table() in PAGE, "run tests/benchmarks/memory_table.py and paste what it prints"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_the_benchmark_measures_what_the_formula_says() -> None:
    """The two quickest cases; what the formula leaves out (docs/memory.md) is nearly constant."""
    saving, plain = (
        memory_table.Case(strategy="inner loop", tokens=512, checkpointing=checkpointing)
        for checkpointing in (True, False)
    )
    peaks = [memory_table.measure(case)["peak"] for case in (saving, plain)]
    needed = [case.needed().total / memory_table.MIB for case in (saving, plain)]
    assert peaks[1] - peaks[0] == pytest.approx(needed[1] - needed[0], rel=0.2)
    for peak, formula in zip(peaks, needed, strict=True):
        assert 0.75 < formula / peak < 1.1


def test_each_strategy_saves_what_it_is_for() -> None:
    plain, saving = Work(), Work(checkpointing=True)
    for decoder in DECODERS:
        for strategy in (inner_loop, m_step):
            assert strategy(decoder, saving).total < strategy(decoder, plain).total
        nf4 = base_weights(decoder, Work(quantized=True))
        assert nf4 < 0.75 * base_weights(decoder, plain)
        if decoder.parameters > 3e10:
            assert nf4 < 0.32 * base_weights(decoder, plain)
        whole = inner_loop(decoder, saving)
        split = [sharded(decoder, saving, whole, ranks) for ranks in (2, 4, 8)]
        assert split[0].total > split[1].total > split[2].total
        assert sharded(decoder, saving, whole, 8, offloaded=True).weights < split[2].weights
        assert m_step(decoder, plain, ranks=2).states == 1.25 * m_step(decoder, plain).states


def test_full_finetuning_takes_16_to_18_bytes_a_parameter() -> None:
    """Without activations: docs/limits.md."""
    p = SMOLLM2_135M.parameters
    one_token = Work(tokens=1, checkpointing=True)
    assert full_finetuning(SMOLLM2_135M, one_token).total == pytest.approx(18 * p, rel=0.01)
    assert full_finetuning(SMOLLM2_135M, Work(size=4, tokens=1)).total == pytest.approx(16 * p, rel=0.01)
