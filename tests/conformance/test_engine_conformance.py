"""What every engine does, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes import weights_hash
from implementations import ENGINES, assert_all_registered, cases

from seal_lightning.core import (
    AdapterSpec,
    ChatMessage,
    Choice,
    ChoiceScoreRequest,
    Completion,
    FinishReason,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import Engine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, init_adapter

Make = Callable[[], Engine]
PROMPTS = (
    "The stone 3 is",
    (ChatMessage(role="user", content="What is stone 3?"),),
    "x",
    "The stone 3 is",
    "1. First.\n",
)
REVERSED = range(len(PROMPTS) - 1, -1, -1)


def bound(make: Make, language_model: LanguageModel) -> Engine:
    engine = make()
    engine.bind(language_model)
    return engine


def adapter_of(language_model: LanguageModel) -> LoraAdapter:
    adapter = init_adapter(language_model.model, AdapterSpec(rank=2, alpha=8.0), torch.Generator().manual_seed(0))
    for _, b in adapter.weights.values():
        b.fill_(0.1)
    return adapter


def text_requests(language_model: LanguageModel) -> list[GenerationRequest]:
    """Greedy and sampled, long and short, adapted and not, with stops."""
    adapter = adapter_of(language_model)
    specs = [
        SamplingSpec(temperature=0.0, max_new_tokens=8),
        SamplingSpec(temperature=1.0, max_new_tokens=5),
        SamplingSpec(temperature=0.7, top_p=0.8, max_new_tokens=9, stop=("e", "\n")),
        SamplingSpec(temperature=1.0, max_new_tokens=1),
        SamplingSpec(temperature=0.0, max_new_tokens=6, stop=("a",)),
    ]
    return [
        GenerationRequest(prompt=prompt, sampling=spec, adapter=adapter if i % 2 else None, seed=i)
        for i, (prompt, spec) in enumerate(zip(PROMPTS, specs, strict=True))
    ]


def score_requests(language_model: LanguageModel) -> list[ScoreRequest]:
    adapter = adapter_of(language_model)
    targets = (" red", "It is known, and amber.", " a", " blue", " ")
    return [
        ScoreRequest(prompt=prompt, target=target, adapter=adapter if i % 2 else None)
        for i, (prompt, target) in enumerate(zip(PROMPTS, targets, strict=True))
    ]


def test_every_engine_is_registered() -> None:
    assert_all_registered(Engine, [make() for make in ENGINES])


@cases(ENGINES)
def test_engine_accepts_empty_requests(make: Make, tiny: LanguageModel) -> None:
    engine = bound(make, tiny)
    assert list(engine.generate([])) == []
    assert list(engine.score([])) == []
    assert list(engine.score_choices([])) == []


@cases(ENGINES)
def test_engine_results_do_not_depend_on_order(make: Make, tiny64: LanguageModel) -> None:
    """All at once, one by one and backwards give the same."""
    engine = bound(make, tiny64)
    requests = text_requests(tiny64)
    together = list(engine.generate(requests))
    assert [engine.generate([request])[0] for request in requests] == together
    assert list(engine.generate([requests[i] for i in REVERSED])) == [together[i] for i in REVERSED]
    asked = score_requests(tiny64)
    scores = list(engine.score(asked))
    backwards = list(engine.score([asked[i] for i in REVERSED]))
    for i, score in enumerate(scores):
        assert list(engine.score([asked[i]])[0]) == pytest.approx(list(score), abs=1e-12)
        assert list(backwards[len(scores) - 1 - i]) == pytest.approx(list(score), abs=1e-12)


@cases(ENGINES)
def test_engine_completions_fit_their_settings(make: Make, tiny: LanguageModel) -> None:
    requests = text_requests(tiny)
    completions = bound(make, tiny).generate(requests)
    for request, completion in zip(requests, completions, strict=True):
        spec = request.sampling
        assert isinstance(completion, Completion)
        assert 1 <= len(completion.token_ids) <= spec.max_new_tokens
        assert not any(stop in completion.text for stop in spec.stop)
        assert tiny.decode(list(completion.token_ids)).startswith(completion.text)
        if completion.finish_reason is FinishReason.LENGTH:
            assert len(completion.token_ids) == spec.max_new_tokens
            assert completion.text == tiny.decode(list(completion.token_ids))


@cases(ENGINES)
def test_engine_scores_each_target_token(make: Make, tiny: LanguageModel) -> None:
    requests = score_requests(tiny)
    for request, scores in zip(requests, bound(make, tiny).score(requests), strict=True):
        assert len(scores) == len(tiny.encode_text(request.target))
        assert all(type(score) is float and score <= 0 for score in scores)


@cases(ENGINES)
def test_engine_first_token_probabilities_sum_to_one(make: Make, tiny64: LanguageModel) -> None:
    """Over every single-token text of the vocabulary; what texts cannot say (half characters, special tokens) is the rest."""
    ids = [i for i in range(len(tiny64.tokenizer)) if tiny64.encode_text(tiny64.decode([i])) == [i]]
    assert len(ids) > 150
    scores = bound(make, tiny64).score([ScoreRequest(prompt="The stone", target=tiny64.decode([i])) for i in ids])
    logits = tiny64.model(input_ids=torch.tensor([tiny64.encode_prompt("The stone")])).logits[0, -1]
    expected = torch.softmax(logits, dim=-1)[ids].sum().item()
    assert torch.tensor(scores, dtype=torch.float64).exp().sum().item() == pytest.approx(expected, abs=1e-10)


@cases(ENGINES)
def test_engine_choice_probabilities_sum_to_one(make: Make, tiny64: LanguageModel) -> None:
    """Beside free requests; an engine without constrained decoding says so."""
    first, second = Choice(name="first", options=("red", "1", "10")), Choice(name="second", options=("a", "bc"))
    schema = ("The ", first, " is ", second, ".")
    texts = {f"The {x} is {y}.": {"first": x, "second": y} for x in first.options for y in second.options}
    engine, adapter = bound(make, tiny64), adapter_of(tiny64)
    asked = [
        ChoiceScoreRequest(prompt=PROMPTS[1], schema=schema, choices=choices, adapter=a)
        for a in (None, adapter)
        for choices in texts.values()
    ]
    try:
        scores = engine.score_choices(asked)
    except ConfigError:
        pytest.skip("no constrained decoding")
    sums = torch.tensor(scores, dtype=torch.float64).view(2, -1).exp().sum(dim=1).tolist()
    assert sums == pytest.approx([1.0, 1.0], abs=1e-9)
    of_schema = [
        GenerationRequest(prompt=PROMPTS[1], sampling=SamplingSpec(), schema=schema, seed=seed) for seed in range(4)
    ]
    free = text_requests(tiny64)
    completions = engine.generate([*of_schema, *free])
    assert list(completions[4:]) == list(engine.generate(free))
    for completion in completions[:4]:
        assert completion.choices == texts[completion.text]
        assert completion.log_prob == pytest.approx(scores[list(texts).index(completion.text)], abs=1e-9)
        assert completion.chosen is not None
        assert len(completion.chosen) == len(completion.token_ids)
        assert 2 <= sum(completion.chosen) < len(completion.chosen)
        assert completion.token_ids[-1] in tiny64.eos_ids
        assert tiny64.decode(list(completion.token_ids)) == completion.text


@cases(ENGINES)
def test_engine_adapter_affects_its_requests_only(make: Make, tiny64: LanguageModel) -> None:
    engine, adapter = bound(make, tiny64), adapter_of(tiny64)
    plain = ScoreRequest(prompt="The stone 3 is", target=" red and blue")
    adapted = ScoreRequest(prompt="The stone 3 is", target=" red and blue", adapter=adapter)
    first, second, third = engine.score([plain, adapted, plain])
    assert list(first) == pytest.approx(list(third), abs=1e-12)
    assert list(first) == pytest.approx(list(engine.score([plain])[0]), abs=1e-12)
    assert max(abs(x - y) for x, y in zip(first, second, strict=True)) > 1e-3


@cases(ENGINES)
def test_engine_leaves_model_and_generator_unchanged(make: Make, tiny: LanguageModel) -> None:
    engine, requests, asked = bound(make, tiny), text_requests(tiny), score_requests(tiny)
    adapter = requests[1].adapter
    assert isinstance(adapter, LoraAdapter)
    before, weights, state = weights_hash(tiny.model), adapter.detached_copy().tensors(), torch.get_rng_state()
    engine.generate(requests)
    engine.score(asked)
    assert weights_hash(tiny.model) == before
    assert all(torch.equal(x, y) for x, y in zip(weights, adapter.tensors(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.model.modules())
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


@cases(ENGINES)
def test_engine_uses_the_last_bound_model(make: Make, tiny64: LanguageModel) -> None:
    engine, request = make(), ScoreRequest(prompt="The stone", target=" red")
    engine.bind(tiny64)
    first = list(engine.score([request])[0])
    with torch.no_grad():
        tiny64.model.get_output_embeddings().weight.mul_(2)
    engine.bind(tiny64)
    assert list(engine.score([request])[0]) != pytest.approx(first, abs=1e-3)
