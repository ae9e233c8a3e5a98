"""What the benchmarks compute on: a model, and plans made of real self-edits."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from seal_lightning.core import AdaptationPlan, OptimizerSpec, SelfEdit
from seal_lightning.domains.knowledge import KnowledgeDomain, PassagesJson
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained, embedded_folder

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-7B-shape": {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "tiny-shape": {
        "vocab_size": 49_152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
"""Built in code with random weights, for machines that reach no hub: their arithmetic costs what the real model's does."""


def load_model(random_weights: str | None, dtype: str, device: torch.device) -> LanguageModel:
    """The small real model, or random weights of a shape with its tokenizer."""
    if random_weights is None:
        language_model = Pretrained(dtype=dtype).load()  # type: ignore[arg-type]
        language_model.model.to(device)
        return language_model
    config = Qwen2Config(**SHAPES[random_weights], tie_word_embeddings=False)
    config.dtype = getattr(torch, dtype)
    with torch.device(device):
        torch.manual_seed(0)
        torch.set_default_dtype(config.dtype)
        model = Qwen2ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return LanguageModel(model, AutoTokenizer.from_pretrained(embedded_folder()))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One real self-edit and what it means."""

    passage: Passage
    edit: SelfEdit
    plan: AdaptationPlan


def load_candidates(data: Path, num_passages: int, num_edits: int, num_epochs: int) -> list[Candidate]:
    """Edits of the first passages as plans with the paper's settings, passage by passage; ``num_epochs`` shortens them."""
    records = json.loads(data.read_text(encoding="utf-8"))
    passages = PassagesJson(path=str(data), limit=num_passages).load()
    domain = KnowledgeDomain(max_answer_tokens=32)
    candidates = []
    for passage in passages:
        (record,) = [r for r in records if r["title"] == passage.title and r["context"] == passage.context]
        texts = record["completions"]
        for index, text in enumerate((json.loads(texts) if isinstance(texts, str) else texts)[:num_edits]):
            edit = SelfEdit(task_id=passage.task_id, edit_index=index, text=text)
            plan = domain.plan(passage, edit)
            shortened = replace(plan, optimizer=OptimizerSpec(num_epochs=num_epochs))
            candidates.append(Candidate(passage=passage, edit=edit, plan=shortened))
    return candidates
