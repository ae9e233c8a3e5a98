"""Packed rows against each sequence alone, on every kind of decoder; what mixes sequences is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from decoders import DECODERS, decoder
from peft import PeftModel
from peft_reference import by_name, reference, relative_error
from torch.nn import functional as F
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

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
from seal_lightning.core.errors import ModelError
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, save_adapter, target_modules
from seal_lightning.models.packed import LowerLayers, PackedForward, TokenizedSequence, pack

CPU = torch.device("cpu")
EXACT = 1e-12


def tolerance(name: str) -> float:
    """transformers takes the softmax of Gemma 2's capped scores in float32, in a float64 model too.

    GPT-2's first gradients are so close to zero that AdamW, which divides by their size, shows the rounding of sums.
    """
    return {"gemma2": 1e-4, "gpt2": 1e-11}.get(name, EXACT)


def sequences(lengths: tuple[int, ...] = (3, 17, 1, 9, 16, 12, 17)) -> list[TokenizedSequence]:
    """Ragged, some close enough in length to be batched, one longer than every sliding window here."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in lengths:
        ids = torch.randint(0, 300, (length,), generator=generator).tolist()
        trained = (torch.rand(length, generator=generator) < 0.7).tolist()
        made.append(TokenizedSequence(token_ids=tuple(ids), trained=(False, *trained[1:])))
    return made


def alone(model: PreTrainedModel, sequence: TokenizedSequence) -> list[float]:
    ids = torch.tensor([sequence.token_ids])
    with torch.no_grad():
        losses = F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return [loss for loss, trained in zip(losses.tolist(), sequence.trained[1:], strict=True) if trained]


@pytest.mark.parametrize("name", DECODERS)
def test_packed_losses_equal_single_sequences(name: str) -> None:
    language_model = decoder(name)
    expected = [alone(language_model.model, s) for s in sequences()]
    attention = language_model.model.config._attn_implementation
    row = pack(sequences(), CPU)
    with torch.no_grad():
        losses = language_model.packed(row).losses
    assert losses.tolist() == pytest.approx([loss for part in expected for loss in part], rel=10 * tolerance(name))
    assert row.num_targets == tuple(map(len, expected))
    assert language_model.model.config._attn_implementation == attention


@pytest.mark.parametrize("name", ["cohere", "granite"])
def test_packed_forward_uses_other_output_heads_whole(name: str) -> None:
    assert not decoder(name).packed._chunked


def test_packed_forward_computes_linear_heads_in_chunks() -> None:
    assert decoder("llama").packed._chunked
    assert decoder("gemma2").packed._chunked


@pytest.mark.parametrize("name", DECODERS)
def test_packed_adapters_equal_peft_for_each_decoder(name: str, tmp_path: Any) -> None:
    """Trained side by side, answered in one mixed batch, and stored as PEFT folders that give equal logits."""
    language_model = decoder(name)
    few: Any = "all-linear" if name in {"phi3", "cohere", "granite"} else None  # of these PEFT knows no default
    batch_size = 1 if name == "gemma2" else 2  # padded, transformers' own Gemma 2 gives NaN in float64
    plans = [
        plan(1, AdapterSpec(rank=3, alpha=6.0, target_modules=few)),
        plan(3, AdapterSpec(rank=2, target_modules="all-linear"), batch_size),
    ]
    loop, engine = BatchedInnerLoop(), TransformersEngine(max_batch_size=1 if name == "gemma2" else 32)
    loop.bind(language_model)
    engine.bind(language_model)
    results = loop.adapt(plans, [5, 6])
    adapters = []
    for one, seed, result in zip(plans, (5, 6), results, strict=True):
        assert isinstance(result, Adapted), result
        expected, losses = reference(language_model, one, seed)
        assert relative_error(by_name(result), expected) <= tolerance(name)
        assert result.losses == pytest.approx(losses, rel=tolerance(name))
        assert isinstance(result.adapter, LoraAdapter)
        adapters.append(result.adapter)
    prompts = ["The stone 1 is", "The quick brown", "Question: what"]
    cases = [(prompt, adapter) for prompt in prompts for adapter in (*adapters, None)]
    scores = engine.score([ScoreRequest(prompt=p, target=" red stone", adapter=a) for p, a in cases])
    greedy = SamplingSpec(temperature=0.0, max_new_tokens=6)
    texts = engine.generate([GenerationRequest(prompt=p, sampling=greedy, adapter=a) for p, a in cases])
    for index, adapter in enumerate((*adapters, None)):
        model: Any = copy.deepcopy(language_model.model)
        if adapter is not None:
            save_adapter(adapter, tmp_path / str(index), base_model="none")
            model = PeftModel.from_pretrained(model, tmp_path / str(index))
        for (prompt, of_case), score, text in zip(cases, scores, texts, strict=True):
            if of_case is adapter:
                target = language_model.encode_text(" red stone")
                ids = torch.tensor([language_model.encode_prompt(prompt) + target])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, -len(target) - 1 : -1]
                assert score == pytest.approx(
                    [-x for x in F.cross_entropy(logits, torch.tensor(target), reduction="none").tolist()],
                    rel=10 * tolerance(name),
                )
                assert list(text.token_ids) == greedily(model, language_model, prompt, 6)


@pytest.mark.parametrize("name", DECODERS)
def test_lower_layers_run_once_per_sequence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters on the upper layer only: PEFT's weights still, and the lower layer sees each sequence once."""
    language_model = decoder(name)
    spec = AdapterSpec(rank=3, alpha=6.0, target_modules="all-linear", layers=(1,))
    upper = target_modules(language_model.model, spec)
    one = plan(3, replace(spec, target_modules=tuple({n.rsplit(".", 1)[1] for n in upper})))
    expected, losses = reference(language_model, one, 5)
    loop = BatchedInnerLoop()
    loop.bind(language_model)
    seen: list[int] = []
    computed = LowerLayers._compute

    def noted(self: LowerLayers, sequences: list[TokenizedSequence]) -> torch.Tensor:
        seen.extend(len(s.token_ids) for s in sequences)
        return computed(self, sequences)

    monkeypatch.setattr(LowerLayers, "_compute", noted)
    loop.adapt([one], [5])  # the first call checks the model too
    seen.clear()
    (result,) = loop.adapt([one], [5])
    assert relative_error(by_name(result), expected) <= tolerance(name)
    assert isinstance(result, Adapted)
    assert result.losses == pytest.approx(losses, rel=tolerance(name))
    assert 2 * sum(seen) == result.num_tokens


def test_lower_layers_with_shared_state_are_not_skipped(tiny: LanguageModel) -> None:
    """A layer that also looks at what a lower one left behind."""
    layers = tiny.model.get_submodule("model.layers")
    left: list[torch.Tensor] = []
    handles = [
        layers[0].register_forward_hook(lambda module, args, output: left.append(output)),
        layers[1].register_forward_hook(lambda module, args, output: output + 3 * left.pop() if left else output),
    ]
    assert not LowerLayers(tiny.packed, "model.layers", 1).can_be_skipped()
    for handle in handles:
        handle.remove()
    assert LowerLayers(tiny.packed, "model.layers", 1).can_be_skipped()


def plan(num_texts: int, adapter: AdapterSpec, batch_size: int = 1) -> AdaptationPlan:
    texts = ["The stone 1 is green.", "It is known that the stone 2 is blue.", "Question: what? Answer: red"][
        -num_texts:
    ]
    return AdaptationPlan(
        sequences=tuple(TrainingSequence(segments=(Segment(text=text),)) for text in texts),
        adapter=adapter,
        optimizer=OptimizerSpec(learning_rate=1e-2, num_epochs=2, batch_size=batch_size),
    )


def greedily(model: Any, language_model: LanguageModel, prompt: str, count: int) -> list[int]:
    """One token after the other, each by a whole forward pass."""
    ids = language_model.encode_prompt(prompt)
    written: list[int] = []
    while len(written) < count and (not written or written[-1] not in language_model.eos_ids):
        with torch.no_grad():
            written.append(int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (MambaForCausalLM, MambaConfig(vocab_size=350, hidden_size=32, num_hidden_layers=2, state_size=4)),
        (BloomForCausalLM, BloomConfig(vocab_size=350, hidden_size=32, n_layer=2, n_head=4)),
    ],
)
def test_packed_forward_rejects_recurrent_models(kind: Any, config: Any) -> None:
    """A recurrent state, or attention that goes its own way."""
    torch.manual_seed(0)
    config.initializer_range = 0.2
    with pytest.raises(ModelError, match="other losses for packed sequences"):
        PackedForward(kind(config).eval())


def test_packed_attention_rejects_windows_in_masks() -> None:
    """Some models tell their attention nothing of it; within the window all is well."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    window = {"use_sliding_window": True, "sliding_window": 12, "layer_types": ["sliding_attention"] * 2}
    config = Qwen2MoeConfig(vocab_size=350, num_key_value_heads=2, initializer_range=0.2, **sizes, **experts, **window)
    model = Qwen2MoeForCausalLM(config).eval()
    forward = PackedForward(model)
    (short,) = sequences((12,))
    assert forward(pack([short], CPU)).losses.tolist() == pytest.approx(alone(model, short), rel=1e-4)
    with pytest.raises(ModelError, match="limits attention to 12 tokens by its mask"):
        forward(pack(sequences((13,)), CPU))


def test_packed_forward_keeps_nan_in_its_sequence() -> None:
    language_model = decoder("llama")
    made = sequences((8, 8, 8))
    with torch.no_grad():
        language_model.model.get_input_embeddings().weight[made[1].token_ids[2]] = float("nan")
    others = [i for i in (0, 2) if made[1].token_ids[2] not in made[i].token_ids]
    assert others == [0, 2]
    parts = torch.split(language_model.packed(pack(made, CPU)).losses, [s.num_targets for s in made])
    assert parts[1].isnan().any()
    assert parts[0].isfinite().all()
    assert parts[2].isfinite().all()
