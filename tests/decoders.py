"""Tiny decoders of many architectures, random weights, in float64."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t
from fakes import tiny_tokenizer

from seal_lightning.models.language_model import LanguageModel

_ENDS = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 1}
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}

_KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (t.LlamaForCausalLM, t.LlamaConfig, _SIZES),
    "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config, _SIZES),
    "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config, _SIZES | {"head_dim": 8}),
    "mistral": (t.MistralForCausalLM, t.MistralConfig, _SIZES | {"sliding_window": 5}),
    "gemma": (t.GemmaForCausalLM, t.GemmaConfig, _SIZES | {"head_dim": 8}),
    "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config, _SIZES | {"head_dim": 8, "sliding_window": 5} | _CAPS),
    "gemma3": (t.Gemma3ForCausalLM, t.Gemma3TextConfig, _SIZES | {"head_dim": 8, "sliding_window": 5}),
    "gpt2": (t.GPT2LMHeadModel, t.GPT2Config, _GPT2),
    "gptneox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig, _SIZES),
    "phi3": (t.Phi3ForCausalLM, t.Phi3Config, _SIZES),
    "cohere": (t.CohereForCausalLM, t.CohereConfig, _SIZES | {"logit_scale": 0.5}),
    "granite": (t.GraniteForCausalLM, t.GraniteConfig, _SIZES | {"logits_scaling": 2.0}),
}
DECODERS = tuple(_KINDS)


def decoder(name: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A tiny decoder of this architecture with the tiny tokenizer."""
    model_class, config_class, settings = _KINDS[name]
    tokenizer = tiny_tokenizer()
    config = config_class(vocab_size=len(tokenizer), initializer_range=0.2, **_ENDS, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LanguageModel(model_class(config).to(dtype), tokenizer)
