"""The in-process engine against plain forward passes and transformers' own ``generate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from decoders import DECODERS, decoder
from fakes import tiny_tokenizer, weights_hash, write_tiny_model
from transformers.cache_utils import DynamicSlidingWindowLayer

from seal_lightning.core import (
    AdapterSpec,
    ChatMessage,
    FinishReason,
    GenerationRequest,
    Prompt,
    SamplingSpec,
    ScoreRequest,
    Segment,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError, DataError, ModelError
from seal_lightning.generation import TransformersEngine
from seal_lightning.generation import decoding as token_sampling
from seal_lightning.generation.decoding import SeededSampling
from seal_lightning.generation.row_batches import keep_rows, keeps_all_tokens, preallocated_cache
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter, init_adapter, routed
from seal_lightning.models.pretrained import Pretrained

PROMPTS = (
    "The stone 3 is",
    "Question: what is the colour of the stone? Answer:",
    "x",
    "The quick brown fox",
    "1. First.\n2.",
)
GREEDY = SamplingSpec(temperature=0.0, max_new_tokens=12)
SAMPLED = SamplingSpec(temperature=1.0, top_p=0.95, max_new_tokens=12)


def engine_of(language_model: LanguageModel, max_batch_size: int = 32) -> TransformersEngine:
    engine = TransformersEngine(max_batch_size=max_batch_size)
    engine.bind(language_model)
    return engine


def adapters_of(language_model: LanguageModel, count: int) -> list[LoraAdapter]:
    adapters = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        adapter = init_adapter(language_model.model, AdapterSpec(rank=2, alpha=8.0), generator)
        for _, b in adapter.weights.values():
            b.copy_(torch.randn(b.shape, generator=generator, dtype=b.dtype) * 0.3)
        adapters.append(adapter)
    return adapters


@torch.no_grad()
def plain_scores(language_model: LanguageModel, prompt: Prompt, target: str) -> list[float]:
    """Log-probabilities by one unpadded forward pass."""
    before, after = language_model.encode_prompt(prompt), language_model.encode_text(target)
    logits = language_model.model(input_ids=torch.tensor([before + after])).logits[0]
    log_probs = torch.log_softmax(logits, dim=-1)
    return [float(log_probs[len(before) + i - 1, token]) for i, token in enumerate(after)]


@torch.no_grad()
def plain_greedy(language_model: LanguageModel, prompt: Prompt, max_new_tokens: int) -> list[int]:
    """Transformers' own greedy decoding of one prompt, without padding."""
    ids = torch.tensor([language_model.encode_prompt(prompt)])
    written = language_model.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
    )
    return written[0, ids.shape[1] :].tolist()


# --- score -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_size", [1, 2, 32])
def test_score_equals_plain_forward_pass(tiny64: LanguageModel, max_batch_size: int) -> None:
    targets = (" red", " it is known, and amber or black", " a", " jumps over the lazy dog.", "")
    pairs = list(zip(PROMPTS, targets, strict=True))
    requests = [ScoreRequest(prompt=p, target=t) for p, t in pairs]
    found = engine_of(tiny64, max_batch_size).score(requests)
    for (prompt, target), scores in zip(pairs, found, strict=True):
        assert scores == pytest.approx(plain_scores(tiny64, prompt, target), abs=1e-12)
        assert len(scores) == len(tiny64.encode_text(target))


def test_score_puts_chat_through_template(tiny64: LanguageModel) -> None:
    chat = (ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="What is stone 3?"))
    (scores,) = engine_of(tiny64).score([ScoreRequest(prompt=chat, target=" red")])
    rendered = "system: Be short.\nuser: What is stone 3?\nassistant:"
    assert scores == pytest.approx(plain_scores(tiny64, rendered, " red"), abs=1e-12)


def test_score_adds_begin_token_to_prompts_only(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", begin_token=True)
    model = Pretrained(source=str(folder), dtype="float64").load()
    begin = tiny_tokenizer().bos_token_id
    assert model.bos_ids == [begin]
    assert model.encode_prompt("The stone") == [begin, *model.encode_text("The stone")]
    assert begin not in model.encode_text("The stone")
    (scores,) = engine_of(model).score([ScoreRequest(prompt="", target="The stone")])
    assert scores == pytest.approx(plain_scores(model, "", "The stone"), abs=1e-12)


def test_engine_rejects_empty_prompt(tiny: LanguageModel) -> None:
    engine = engine_of(tiny)
    with pytest.raises(ModelError, match="empty"):
        engine.score([ScoreRequest(prompt="", target="The stone")])
    with pytest.raises(ModelError, match="empty"):
        engine.generate([GenerationRequest(prompt="", sampling=GREEDY)])


# --- adapters ----------------------------------------------------------------------------------------------------------


def test_engine_mixes_adapters_in_one_call(tiny64: LanguageModel) -> None:
    """No adapter, two adapters and their order, in scores and text; and each makes a difference."""
    first, second = adapters_of(tiny64, 2)
    mixed = [None, first, second, first, None]
    engine, before = engine_of(tiny64), weights_hash(tiny64.model)
    score_requests = [ScoreRequest(prompt=p, target=" red", adapter=a) for p, a in zip(PROMPTS, mixed, strict=True)]
    text_requests = [
        GenerationRequest(prompt=p, sampling=GREEDY, adapter=a) for p, a in zip(PROMPTS, mixed, strict=True)
    ]
    scores, texts = engine.score(score_requests), engine.generate(text_requests)
    for i, (prompt, adapter) in enumerate(zip(PROMPTS, mixed, strict=True)):
        with routed(tiny64.model, [AdapterRows(size=1, adapter=adapter)]):
            assert scores[i] == pytest.approx(plain_scores(tiny64, prompt, " red"), abs=1e-12)
            assert list(texts[i].token_ids) == plain_greedy(tiny64, prompt, GREEDY.max_new_tokens)
    same_prompt = [ScoreRequest(prompt=PROMPTS[0], target=" red", adapter=a) for a in (None, first, second)]
    assert len({tuple(s) for s in engine.score(same_prompt)}) == 3
    assert weights_hash(tiny64.model) == before


# --- greedy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_size", [1, 3, 32])
def test_generate_greedy_equals_transformers(tiny64: LanguageModel, max_batch_size: int) -> None:
    requests = [GenerationRequest(prompt=p, sampling=GREEDY) for p in PROMPTS]
    for prompt, completion in zip(PROMPTS, engine_of(tiny64, max_batch_size).generate(requests), strict=True):
        expected = plain_greedy(tiny64, prompt, GREEDY.max_new_tokens)
        assert list(completion.token_ids) == expected
        assert completion.text == tiny64.decode(expected)


def test_generate_equals_single_rows_for_repeated_prompts(tiny64: LanguageModel) -> None:
    """Rows of one prompt, in between others, share keys and values; texts are those of rows alone."""
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[0]]
    for sampling in (GREEDY, SAMPLED):
        requests = [GenerationRequest(prompt=p, sampling=sampling, seed=i) for i, p in enumerate(prompts)]
        together = engine_of(tiny64).generate(requests)
        alone = [engine_of(tiny64).generate([request])[0] for request in requests]
        assert together == alone
        assert together[0].token_ids == tuple(
            plain_greedy(tiny64, prompts[0], 12) if sampling is GREEDY else together[0].token_ids
        )


SHARED = "The stones lie in the river, and each has a number and a colour. " * 3


@pytest.mark.parametrize("spec", [GREEDY, SAMPLED])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_generate_reads_common_prefix_once(
    tiny64: LanguageModel, spec: SamplingSpec, with_adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapters_of(tiny64, 1)[0] if with_adapter else None
    prompts = [SHARED + tail for tail in ("Stone 3 is", "Which stone is grey? Stone", "x", "Stone 3 is")]
    requests = [GenerationRequest(prompt=p, sampling=spec, seed=i, adapter=adapter) for i, p in enumerate(prompts)]
    read: list[int] = []
    forward = tiny64.model.forward

    @wraps(forward)  # generate looks at what it takes
    def counted(*args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    alone = [engine_of(tiny64).generate([request])[0] for request in requests]
    monkeypatch.setattr(tiny64.model, "forward", counted)
    assert list(engine_of(tiny64).generate(requests)) == alone
    lengths = [len(tiny64.encode_prompt(prompt)) for prompt in prompts]
    num_shared = len(tiny64.encode_text(SHARED))
    assert read[0] >= num_shared - 1  # the last token may be joined to what follows
    assert sum(read) < sum(lengths) - 2 * (num_shared - 1) + len(prompts) * spec.max_new_tokens


def test_generate_with_prompts_that_differ_in_last_token(tiny64: LanguageModel) -> None:
    requests = [GenerationRequest(prompt=SHARED + tail, sampling=SAMPLED, seed=i) for i in (0, 1) for tail in "ab"]
    alone = [engine_of(tiny64).generate([request])[0] for request in requests]
    assert list(engine_of(tiny64).generate(requests)) == alone


WITH_WINDOWS = {"mistral", "gemma2", "gemma3"}


@pytest.mark.parametrize("name", DECODERS)
def test_generate_equals_single_rows_for_each_decoder(name: str) -> None:
    language_model = decoder(name)
    assert keeps_all_tokens(preallocated_cache(language_model.model)) == (name not in WITH_WINDOWS)
    if name in WITH_WINDOWS:  # gemma2's pads in a batch shift its window, shared start or not
        return
    requests = [GenerationRequest(prompt=SHARED + tail, sampling=GREEDY) for tail in ("Stone 3 is", "A", "So many")]
    alone = [engine_of(language_model).generate([request])[0] for request in requests]
    assert list(engine_of(language_model).generate(requests)) == alone


def test_prefix_is_not_shared_across_adapters_or_windows(tiny64: LanguageModel, tmp_path: Path) -> None:
    first, second = adapters_of(tiny64, 2)
    mixed = [
        GenerationRequest(prompt=SHARED + str(i), sampling=GREEDY, adapter=adapter)
        for i, adapter in enumerate((first, second, None))
    ]
    alone = [engine_of(tiny64).generate([request])[0] for request in mixed]
    assert list(engine_of(tiny64).generate(mixed)) == alone
    windowed = preallocated_cache(tiny64.model)
    assert keeps_all_tokens(windowed)
    windowed.layers[0] = DynamicSlidingWindowLayer(sliding_window=8)
    assert not keeps_all_tokens(windowed)


def test_generate_stops_each_row_at_its_max_new_tokens(tiny64: LanguageModel) -> None:
    requests = [
        GenerationRequest(prompt=prompt, sampling=replace(GREEDY, max_new_tokens=n))
        for prompt, n in zip(PROMPTS, (1, 7, 3, 12, 2), strict=True)
    ]
    for request, completion in zip(requests, engine_of(tiny64).generate(requests), strict=True):
        n = request.sampling.max_new_tokens
        assert list(completion.token_ids) == plain_greedy(tiny64, request.prompt, n)
        assert len(completion.token_ids) == n
        assert completion.finish_reason is FinishReason.LENGTH


def test_generate_keeps_end_token(tiny64: LanguageModel) -> None:
    """The model's own fifth choice is declared an end token; neighbours go on."""
    written = plain_greedy(tiny64, PROMPTS[0], 12)
    at = next(i for i in range(3, 12) if written[i] not in written[:i])
    tiny64.model.generation_config.eos_token_id = [written[at]]
    model = LanguageModel(tiny64.model, tiny64.tokenizer)
    assert model.eos_ids == (written[at], tiny64.eos_ids[0])
    first, other = engine_of(model).generate([GenerationRequest(prompt=p, sampling=GREEDY) for p in PROMPTS[:2]])
    assert list(first.token_ids) == written[: at + 1]
    assert first.finish_reason is FinishReason.STOP
    assert list(other.token_ids) == plain_greedy(model, PROMPTS[1], 12)
    assert first.text == model.decode(written[: at + 1])


def test_stream_reports_tokens_and_can_be_cancelled(tiny64: LanguageModel) -> None:
    seen: list[list[int]] = []
    engine, ids = engine_of(tiny64), tiny64.encode_prompt(PROMPTS[0])
    completion = engine.stream(ids, SAMPLED, seen.append, seed=3)
    assert [completion] == list(engine.generate([GenerationRequest(prompt=PROMPTS[0], sampling=SAMPLED, seed=3)]))
    assert seen == [list(completion.token_ids[: n + 1]) for n in range(len(completion.token_ids))]

    def cancel(ids: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.stream(ids, SAMPLED, cancel, seed=3)
    assert engine.stream(ids, SAMPLED, seen.append, seed=3) == completion


# --- stop strings ------------------------------------------------------------------------------------------------------


def test_generate_cuts_text_at_stop_string(tiny64: LanguageModel) -> None:
    """Every stretch of what the model writes serves as a stop string once, also those inside or across tokens."""
    written = plain_greedy(tiny64, PROMPTS[1], 12)
    text = tiny64.decode(written)
    prefixes = [tiny64.decode(written[: n + 1]) for n in range(12)]
    stops = [text[i : i + width] for i in range(len(text) - 3) for width in (1, 3)]
    stops = [stop for stop in stops if "�" not in stop]
    assert len(stops) > 10
    requests = [
        GenerationRequest(prompt=PROMPTS[1], sampling=replace(GREEDY, stop=("no such", stop))) for stop in stops
    ]
    for stop, completion in zip(stops, engine_of(tiny64).generate(requests), strict=True):
        num_tokens = 1 + next(i for i, prefix in enumerate(prefixes) if stop in prefix)
        assert completion.text == text[: text.index(stop)]
        assert list(completion.token_ids) == written[:num_tokens]
        assert completion.finish_reason is FinishReason.STOP


def test_generate_stops_at_first_of_several_strings(tiny64: LanguageModel) -> None:
    texts = [tiny64.decode(plain_greedy(tiny64, p, 12)) for p in PROMPTS[:2]]
    late, early = texts[0][-2:], texts[0][2:4]
    requests = [
        GenerationRequest(prompt=PROMPTS[0], sampling=replace(GREEDY, stop=(late, early))),
        GenerationRequest(prompt=PROMPTS[1], sampling=GREEDY),
    ]
    first, second = engine_of(tiny64).generate(requests)
    assert first.text == texts[0][: texts[0].index(early)]
    assert second.text == texts[1]
    assert second.finish_reason is FinishReason.LENGTH


# --- sampling ----------------------------------------------------------------------------------------------------------


def test_sampling_depends_on_own_seed_only(tiny64: LanguageModel) -> None:
    """Whatever the neighbours' prompts, lengths, temperatures and seeds are."""
    mine = GenerationRequest(prompt=PROMPTS[0], sampling=SAMPLED, seed=11)
    others = [
        GenerationRequest(prompt=PROMPTS[1], sampling=replace(SAMPLED, max_new_tokens=40, temperature=0.7), seed=5),
        GenerationRequest(prompt=PROMPTS[2], sampling=GREEDY, seed=6),
        GenerationRequest(prompt=PROMPTS[0], sampling=replace(SAMPLED, top_p=0.5), seed=7),
    ]
    engine = engine_of(tiny64)
    (alone,) = engine.generate([mine])
    state = torch.get_rng_state()
    assert engine.generate([*others, mine])[-1] == alone
    assert engine.generate([mine, *others])[0] == alone
    assert torch.equal(torch.get_rng_state(), state)
    assert engine.generate([others[1]])[0] == engine.generate([*others, mine])[1]


@pytest.mark.parametrize("narrow", [replace(SAMPLED, top_p=1e-6), replace(SAMPLED, temperature=1e-4, top_p=1.0)])
def test_sampling_of_narrow_distribution_is_greedy(tiny64: LanguageModel, narrow: SamplingSpec) -> None:
    requests = [GenerationRequest(prompt=p, sampling=narrow, seed=i) for i, p in enumerate(PROMPTS)]
    for prompt, completion in zip(PROMPTS, engine_of(tiny64).generate(requests), strict=True):
        assert list(completion.token_ids) == plain_greedy(tiny64, prompt, narrow.max_new_tokens)


def nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The distribution to be sampled, by the definition: the smallest set whose probabilities sum to top_p."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    kept = torch.zeros_like(probs)
    for token in probs.argsort(descending=True).tolist():
        if float(kept.sum()) >= top_p:
            break
        kept[token] = probs[token]
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.7), (0.5, 0.95), (2.0, 0.9)])
def test_sampling_follows_the_distribution(temperature: float, top_p: float) -> None:
    """4,000 seeds, 12 tokens: within the sampling error of total variation, and nothing outside the nucleus."""
    num_draws, vocabulary = 4000, 12
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 1.5
    spec = SamplingSpec(temperature=temperature, top_p=top_p, max_new_tokens=3)
    sampling = SeededSampling([spec] * num_draws, list(range(num_draws)), prompt_length=5)
    expected = nucleus(logits, temperature, top_p)
    for step in (0, 2):
        scores = sampling(torch.zeros(num_draws, 5 + step, dtype=torch.long), logits.expand(num_draws, -1).clone())
        assert torch.equal((scores > float("-inf")).sum(dim=1), torch.ones(num_draws, dtype=torch.long))
        counts = Counter(scores.argmax(dim=1).tolist())
        found = torch.tensor([counts[token] / num_draws for token in range(vocabulary)], dtype=torch.float64)
        assert (found[expected == 0] == 0).all()
        assert float((found - expected).abs().sum()) / 2 < 1.5 * (vocabulary / num_draws) ** 0.5 / 2


def test_sampling_passes_rows_of_temperature_zero() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    sampling = SeededSampling([GREEDY, SAMPLED], [1, 2], prompt_length=1)
    scores = sampling(torch.zeros(2, 1, dtype=torch.long), logits.clone())
    assert torch.equal(scores[0], logits[0])
    assert int((scores[1] > float("-inf")).sum()) == 1


def test_engine_rejects_batch_size_below_one() -> None:
    with pytest.raises(ConfigError, match="max_batch_size"):
        TransformersEngine(max_batch_size=0)


# --- batches that shrink ----------------------------------------------------------------------------------------------


def test_generate_never_exceeds_the_context() -> None:
    """GPT-2 has 256 learned positions; the long row is done there while the short ones go on."""
    language_model = decoder("gpt2")
    long = "The stone 3 is red. " * 60
    ids = language_model.encode_text(long)[:251]
    prompt = language_model.decode(ids)
    count = len(language_model.encode_prompt(prompt))
    assert 245 <= count < 256
    spec = SamplingSpec(temperature=0.0, max_new_tokens=40)
    requests = [GenerationRequest(prompt=p, sampling=spec) for p in (prompt, *PROMPTS)]
    together = engine_of(language_model).generate(requests)
    alone = [engine_of(language_model).generate([request])[0] for request in requests]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert len(together[0].token_ids) <= 256 - count


@pytest.mark.parametrize("limit", [1, 3])
def test_engine_halves_batch_when_out_of_memory(
    tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    engine = engine_of(tiny64)
    texts = [GenerationRequest(prompt=p, sampling=SAMPLED, seed=i) for i, p in enumerate(PROMPTS)]
    scores = [ScoreRequest(prompt=p, target=" red stone") for p in PROMPTS]
    expected = engine.generate(texts), engine.score(scores)
    generate_batch, score_batch = engine._generate_batch, engine._score_batch

    def running_out(work: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def limited(batch: Sequence[Any]) -> list[Any]:
            if len(batch) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return work(batch)

        return limited

    monkeypatch.setattr(engine, "_generate_batch", running_out(generate_batch))
    monkeypatch.setattr(engine, "_score_batch", running_out(score_batch))
    assert [c.token_ids for c in engine.generate(texts)] == [c.token_ids for c in expected[0]]
    for one, other in zip(engine.score(scores), expected[1], strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    assert "out of memory: retrying with batches of" in caplog.text


def test_score_rejects_target_over_the_context(tiny: LanguageModel) -> None:
    with pytest.raises(DataError, match="do not fit the model's context of 256"):
        engine_of(tiny).score([ScoreRequest(prompt="The stone", target=" is red" * 200)])


@pytest.mark.parametrize("likeliest", [1, 4, 60])
def test_nucleus_token_with_wide_nucleus(monkeypatch: pytest.MonkeyPatch, likeliest: int) -> None:
    """Whatever is looked at first, the same tokens are chosen."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 50, generator=generator) * torch.linspace(0.1, 6, 200)[:, None]
    top_p, draw = torch.rand(200, generator=generator).clamp(min=0.05), torch.rand(200, generator=generator)
    expected = token_sampling.nucleus_token(logits, top_p, draw)
    monkeypatch.setattr(token_sampling, "_MOST_LIKELY", likeliest)
    assert torch.equal(token_sampling.nucleus_token(logits, top_p, draw), expected)


def test_nucleus_token_keeps_nan_in_its_row() -> None:
    logits = torch.zeros(2, 50)
    logits[0] = float("nan")
    logits[1, 7] = 100.0
    assert token_sampling.nucleus_token(logits, torch.tensor([0.9, 0.9]), torch.tensor([0.5, 0.5]))[1] == 7


def test_preallocated_cache_after_row_selection(tiny64: LanguageModel) -> None:
    """Appending after rows were selected: the kept rows' states, then the new ones."""
    cache = preallocated_cache(tiny64.model)
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(3, 2, n, 8, generator=generator) for n in (5, 1, 70))
    for states in (first, second):
        keys, values = cache.update(states, -states, 0)
    assert torch.equal(keys, torch.cat([first, second], dim=2))
    assert keys.data_ptr() == cache.update(third[:, :, :1], third[:, :, :1], 0)[0].data_ptr()
    keep_rows(cache, [2, 0, 2], torch.device("cpu"))
    keys, values = cache.update(third, -third, 0)
    assert torch.equal(keys[:, :, :6], torch.cat([first, second], dim=2)[[2, 0, 2]])
    assert torch.equal(values[:, :, 7:], -third)
    assert cache.get_seq_length() == 77


def test_score_of_chat_covers_the_trained_tokens(tiny: LanguageModel) -> None:
    """A template that trims answers, as Llama 3's does, takes the blank before a target's first symbol."""
    tiny.tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    prompt = (ChatMessage(role="user", content=" a b\n c d"),)
    engine = engine_of(tiny)
    (log_probs,) = engine.score([ScoreRequest(prompt=prompt, target=" b c\n d e")])
    segments = (Segment(text=" a b\n c d", trained=False, role="user"), Segment(text=" b c\n d e", role="assistant"))
    trained = tokenize(TrainingSequence(segments=segments), tiny)
    ids = torch.tensor([trained.token_ids])
    log_probs_TV = torch.log_softmax(tiny.model(ids).logits[0], dim=-1)
    wanted = [
        log_probs_TV[i - 1, token].item()
        for i, (token, is_trained) in enumerate(zip(trained.token_ids, trained.trained, strict=True))
        if is_trained
    ]
    assert log_probs == pytest.approx(wanted[:-1], abs=1e-5)  # the end token is trained, and no part of a target
    assert tiny.tokenizer.decode(trained.token_ids).count("assistant: b c") == 1
