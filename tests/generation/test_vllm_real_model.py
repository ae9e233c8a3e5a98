"""The small real model behind a server: one that has what vLLM has, and one that has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import torch
from completions_server import CompletionsServer, serving
from served_model import served

from seal_lightning.core import AdapterSpec, ChatMessage, GenerationRequest, SamplingSpec, ScoreRequest
from seal_lightning.core.errors import SealError
from seal_lightning.generation import TransformersEngine, VllmEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, init_adapter
from seal_lightning.models.pretrained import Pretrained, embedded_folder
from seal_lightning.training.policy import Policy

pytestmark = pytest.mark.slow

PASSAGE = (
    "The Aldermoor lighthouse was built in 1843 of red granite. Its keeper, Ines Valcourt, kept bees on the gallery."
)
PROMPTS = (
    f"{PASSAGE}\n\nRewrite the passage in a few different ways.\n1.",
    (ChatMessage(role="user", content=f"{PASSAGE} Who kept bees?"),),
    "The capital of France is",
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(Pretrained(), AdapterSpec(rank=16, alpha=32.0, target_modules="all-linear"), 1)


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[CompletionsServer]:
    one = CompletionsServer()
    one.max_model_len = 2048
    one.serve(policy.model, policy.language_model.tokenizer)
    with serving(one):
        yield one


def trained(language_model: LanguageModel, seed: int) -> LoraAdapter:
    """As the quickstart's edits adapt: rank 16 on the upper third."""
    generator = torch.Generator().manual_seed(seed)
    spec = AdapterSpec(rank=16, alpha=16.0, target_modules="all-linear", layers=tuple(range(20, 30)))
    adapter = init_adapter(language_model.model, spec, generator)
    for _, b in adapter.weights.values():
        b.copy_(torch.randn(b.shape, generator=generator) * 0.02)
    return adapter


@pytest.mark.long
def test_vllm_real_model_before_and_after_a_round(server: CompletionsServer, policy: Policy) -> None:
    language_model = policy.language_model
    engine, here = VllmEngine("base", server.url, max_lora_rank=32), TransformersEngine()
    engine.bind(language_model)
    here.bind(language_model)
    adapters = [None, trained(language_model, 1), trained(language_model, 2)]
    greedy = SamplingSpec(temperature=0.0, max_new_tokens=16, stop=("\n\n",))
    writing = [GenerationRequest(prompt=p, sampling=greedy, adapter=a) for p in PROMPTS for a in adapters]
    scoring = [
        ScoreRequest(prompt=p, target=" Ines Valcourt kept bees in Paris.", adapter=a)
        for p in PROMPTS
        for a in adapters
    ]
    texts = []
    for _ in range(2):
        found = list(engine.generate(writing))
        assert found == list(here.generate(writing))
        for one, other in zip(engine.score(scoring), here.score(scoring), strict=True):
            assert list(one) == pytest.approx(list(other), abs=1e-4)
        texts.append([one.text for one in found])
        with torch.no_grad():
            for parameter in policy.lora:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
        policy.merge_round()
    assert texts[0] != texts[1]
    sampled = SamplingSpec(temperature=1.0, max_new_tokens=16)
    twice = [GenerationRequest(prompt=PROMPTS[2], sampling=sampled, seed=seed) for seed in (1, 2, 1)]
    first, second, again = engine.generate(twice)
    assert first == again
    assert first != second


def test_vllm_refuses_transformers_serve(tmp_path: Path) -> None:
    """Its completions take text only: whoever names it by mistake is told at the first request, and nothing is scored."""
    folder = embedded_folder()
    with served(folder, tmp_path / "log") as url:
        body = {"model": str(folder), "prompt": [1, 2, 3], "max_tokens": 2}
        with httpx2.Client(trust_env=False, timeout=60.0) as http:
            reply = http.post(f"{url}/completions", json=body)
        assert reply.status_code == 400
        assert "prompt must be a string" in reply.text
        engine = VllmEngine(str(folder), url, num_tries=1)
        engine.bind(Pretrained().load())
        with pytest.raises(SealError, match="engine"):
            engine.score([ScoreRequest(prompt="x", target=" y")])
