"""Constrained decoding against its definition: every text the schema allows, one by one, by plain forward passes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from decoders import DECODERS, decoder
from fakes import MAX_LENGTH, weights_hash
from test_engine import adapters_of, engine_of

from seal_lightning.core import (
    ChatMessage,
    Choice,
    ChoiceScoreRequest,
    Completion,
    FinishReason,
    GenerationRequest,
    Prompt,
    SamplingSpec,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.distributed import interruption
from seal_lightning.generation.constrained import SchemaTokens
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, LoraAdapter, routed
from seal_lightning.models.pretrained import Pretrained

COLOUR = Choice(name="colour", options=("red", "green", "blue", "black"))
NUMBER = Choice(name="number", options=("1", "10", "12", "2"))
KNOWN = Choice(name="known", options=("true", "false"))
SCHEMA: TextSchema = ("The stone is ", COLOUR, ". Number ", NUMBER, ", known: ", KNOWN, ".")
SHORT: TextSchema = (KNOWN, "", Choice(name="size", options=(" large", " small and brown")))
PROMPTS: tuple[Prompt, ...] = ("The stone 3 is", (ChatMessage(role="user", content="What is stone 3?"),), "x")
GREEDY = SamplingSpec(temperature=0.0)
SAMPLED = SamplingSpec(temperature=1.0)


def combinations(schema: TextSchema) -> list[dict[str, str]]:
    choices = [part for part in schema if isinstance(part, Choice)]
    return [
        dict(zip([c.name for c in choices], taken, strict=True))
        for taken in itertools.product(*(choice.options for choice in choices))
    ]


class Reference:
    """A schema by its definition: all its texts as ids; what is allowed is what some text goes on with."""

    def __init__(self, language_model: LanguageModel, schema: TextSchema) -> None:
        self.model = language_model
        self.texts: dict[tuple[int, ...], dict[str, str]] = {}
        for choices in combinations(schema):
            parts = [part if isinstance(part, str) else choices[part.name] for part in schema]
            ids = [token for part in parts for token in language_model.encode_text(part)]
            self.texts[*ids, language_model.eos_ids[0]] = choices
        assert len(self.texts) == len(combinations(schema)), "the schema of the test is ambiguous"

    def ids_of(self, choices: dict[str, str]) -> tuple[int, ...]:
        return next(ids for ids, of_ids in self.texts.items() if of_ids == choices)

    def allowed(self, begun: tuple[int, ...]) -> list[int]:
        return list(dict.fromkeys(ids[len(begun)] for ids in self.texts if ids[: len(begun)] == begun))

    def chosen(self, ids: tuple[int, ...]) -> tuple[bool, ...]:
        return tuple(len(self.allowed(ids[:i])) > 1 for i in range(len(ids)))

    @torch.no_grad()
    def log_probs(self, prompt: Prompt, ids: tuple[int, ...], adapter: LoraAdapter | None = None) -> torch.Tensor:
        """Of each token, among those allowed: one row, one pass, no cache."""
        before = self.model.encode_prompt(prompt)
        with routed(self.model.model, [AdapterRows(size=1, adapter=adapter)]):
            logits = self.model.model(input_ids=torch.tensor([[*before, *ids]])).logits[0].double()
        found = []
        for i, token in enumerate(ids):
            allowed = self.allowed(ids[:i])
            found.append(torch.log_softmax(logits[len(before) + i - 1, allowed], dim=0)[allowed.index(token)])
        return torch.stack(found)

    @torch.no_grad()
    def greedy(self, prompt: Prompt, adapter: LoraAdapter | None = None) -> tuple[int, ...]:
        """The likeliest allowed token, again and again."""
        ids: tuple[int, ...] = ()
        while ids not in self.texts:
            options = [(*ids, token) for token in self.allowed(ids)]
            ids = max(options, key=lambda option: float(self.log_probs(prompt, option, adapter)[-1]))
        return ids

    def check(
        self, completion: Completion, prompt: Prompt, adapter: LoraAdapter | None = None, tol: float = 1e-10
    ) -> None:
        """Everything a completion says."""
        ids = completion.token_ids
        choices = self.texts[ids]
        assert completion.choices == choices
        assert list(completion.choices or {}) == list(choices)
        assert completion.chosen == self.chosen(ids)
        assert completion.finish_reason is FinishReason.STOP
        assert completion.log_prob == pytest.approx(float(self.log_probs(prompt, ids, adapter).sum()), abs=tol)
        assert completion.text == self.model.decode(list(ids))


# --- against the definition ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_size", [1, 3, 32])
def test_completions_equal_the_definition(tiny64: LanguageModel, max_batch_size: int) -> None:
    """Several prompts, adapters, schemas and seeds in one call; and every option is taken somewhere."""
    adapters = [None, *adapters_of(tiny64, 2)]
    references = {schema: Reference(tiny64, schema) for schema in (SCHEMA, SHORT)}
    cases = list(itertools.product(PROMPTS, adapters, references, range(6)))
    requests = [
        GenerationRequest(prompt=p, sampling=SAMPLED, adapter=a, schema=schema, seed=seed)
        for p, a, schema, seed in cases
    ]
    before = weights_hash(tiny64.model)
    completions = engine_of(tiny64, max_batch_size).generate(requests)
    for (prompt, adapter, schema, _), completion in zip(cases, completions, strict=True):
        references[schema].check(completion, prompt, adapter)
    taken = {(n, option) for completion in completions for n, option in (completion.choices or {}).items()}
    assert taken == {
        (part.name, o) for schema in references for part in schema if isinstance(part, Choice) for o in part.options
    }
    assert weights_hash(tiny64.model) == before


def test_temperature_zero_takes_the_most_likely(tiny64: LanguageModel) -> None:
    adapters = [None, *adapters_of(tiny64, 2)]
    reference = Reference(tiny64, SCHEMA)
    cases = list(itertools.product(PROMPTS, adapters))
    requests = [
        GenerationRequest(prompt=p, sampling=GREEDY, adapter=a, schema=SCHEMA, seed=i) for i, (p, a) in enumerate(cases)
    ]
    for (prompt, adapter), completion in zip(cases, engine_of(tiny64).generate(requests), strict=True):
        assert completion.token_ids == reference.greedy(prompt, adapter)
        reference.check(completion, prompt, adapter)


@pytest.mark.parametrize("name", DECODERS)
def test_cache_holes_change_nothing_in_each_decoder(name: str) -> None:
    """Rows whose options have other lengths, behind prompts of other lengths; sliding windows too."""
    language_model = decoder(name)
    reference = Reference(language_model, SCHEMA)
    requests = [
        GenerationRequest(prompt=prompt, sampling=SAMPLED, schema=SCHEMA, seed=seed)
        for prompt in PROMPTS
        for seed in range(4)
    ]
    completions = engine_of(language_model).generate(requests)
    assert len({completion.text for completion in completions}) >= 4
    for request, completion in zip(requests, completions, strict=True):
        reference.check(completion, request.prompt, tol=1e-6)  # some of gemma2 is float32


@pytest.mark.slow
def test_embedded_model_equals_the_definition() -> None:
    embedded = Pretrained().load()
    reference = Reference(embedded, SCHEMA)
    chat = (ChatMessage(role="user", content="Grid:\n012\n345\nDescribe it."),)
    requests = [
        GenerationRequest(prompt=prompt, sampling=sampling, schema=SCHEMA, seed=seed)
        for prompt in (chat, "The stone 3 is")
        for seed, sampling in enumerate((GREEDY, SAMPLED, SAMPLED))
    ]
    asked = []
    completions = engine_of(embedded).generate(requests)
    for request, completion in zip(requests, completions, strict=True):
        reference.check(completion, request.prompt, tol=1e-4)
        if request.sampling is GREEDY:
            assert completion.token_ids == reference.greedy(request.prompt)
        asked.append(ChoiceScoreRequest(prompt=request.prompt, schema=SCHEMA, choices=completion.choices or {}))
    assert engine_of(embedded).score_choices(asked) == pytest.approx([c.log_prob for c in completions], abs=1e-4)


# --- probabilities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch_size", [1, 5, 32])
def test_score_choices_equals_completions_and_sums_to_one(tiny64: LanguageModel, max_batch_size: int) -> None:
    """Over every way to fill the schema in, with adapters mixed."""
    adapters = [None, *adapters_of(tiny64, 1)]
    reference, engine = Reference(tiny64, SCHEMA), engine_of(tiny64, max_batch_size)
    cases = list(itertools.product(adapters, combinations(SCHEMA)))
    scores = engine.score_choices(
        [ChoiceScoreRequest(prompt=PROMPTS[1], schema=SCHEMA, choices=c, adapter=a) for a, c in cases]
    )
    for (adapter, choices), score in zip(cases, scores, strict=True):
        expected = float(reference.log_probs(PROMPTS[1], reference.ids_of(choices), adapter).sum())
        assert type(score) is float
        assert score == pytest.approx(expected, abs=1e-10)
    for i in range(2):
        part = torch.tensor(scores[32 * i : 32 * (i + 1)], dtype=torch.float64)
        assert float(part.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    requests = [GenerationRequest(prompt=PROMPTS[1], sampling=SAMPLED, schema=SCHEMA, seed=seed) for seed in range(5)]
    for completion in engine.generate(requests):
        assert scores[combinations(SCHEMA).index(completion.choices or {})] == pytest.approx(completion.log_prob)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_follow_the_restricted_distribution(tiny: LanguageModel, temperature: float) -> None:
    """600 seeds, 16 texts: token by token, softmax over the allowed tokens at the temperature; χ² at its 99.9 %."""
    schema: TextSchema = ("stone ", NUMBER, " ", Choice(name="colour", options=("red", "blue", "green", "amber")))
    reference, num_draws = Reference(tiny, schema), 600
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    while not expected.keys() <= reference.texts.keys():
        begun = next(ids for ids in expected if ids not in reference.texts)
        options = [(*begun, token) for token in reference.allowed(begun)]
        logits = torch.stack([reference.log_probs(PROMPTS[0], option)[-1] for option in options])
        probability = expected.pop(begun)
        for option, p in zip(options, torch.softmax(logits / temperature, dim=0).tolist(), strict=True):
            expected[option] = probability * p
    sampling = replace(SAMPLED, temperature=temperature, top_p=0.01)
    requests = [
        GenerationRequest(prompt=PROMPTS[0], sampling=sampling, schema=schema, seed=s) for s in range(num_draws)
    ]
    counts = Counter(completion.token_ids for completion in engine_of(tiny, 200).generate(requests))
    likely = [ids for ids, p in expected.items() if num_draws * p >= 5]
    observed = [counts[ids] for ids in likely]
    wanted = [num_draws * expected[ids] for ids in likely]
    observed.append(num_draws - sum(observed))
    wanted.append(num_draws - sum(wanted))
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    assert len(likely) > 5
    assert statistic < 40, (statistic, len(observed))  # 99.9 % of χ² with 16 degrees of freedom is 39.3


def test_score_choices_rejects_incomplete_choices(tiny: LanguageModel) -> None:
    engine = engine_of(tiny)
    for choices in (
        {},
        {"known": "true"},
        {"known": "maybe", "size": " large"},
        {"known": "true", "size": " large", "x": "y"},
    ):
        with pytest.raises(ConfigError, match="does not fill in"):
            engine.score_choices([ChoiceScoreRequest(prompt="x", schema=SHORT, choices=choices)])


# --- neighbours, passes and memory -------------------------------------------------------------------------------------


def test_completions_do_not_depend_on_the_batch(tiny64: LanguageModel) -> None:
    """Free text and schemas in one call, in any order: each as alone, and no global generator is moved."""
    adapter = adapters_of(tiny64, 1)[0]
    free = SamplingSpec(temperature=1.0, max_new_tokens=7)
    requests = [
        GenerationRequest(prompt=PROMPTS[0], sampling=SAMPLED, schema=SCHEMA, seed=11),
        GenerationRequest(prompt=PROMPTS[0], sampling=free, seed=11),
        GenerationRequest(prompt=PROMPTS[1], sampling=replace(SAMPLED, temperature=0.5), schema=SHORT, seed=3),
        GenerationRequest(prompt=PROMPTS[0], sampling=SAMPLED, schema=SCHEMA, seed=12, adapter=adapter),
        GenerationRequest(prompt=PROMPTS[1], sampling=GREEDY, schema=SCHEMA, seed=12),
        GenerationRequest(prompt=PROMPTS[2], sampling=replace(free, max_new_tokens=3), seed=1, adapter=adapter),
    ]
    engine, state = engine_of(tiny64), torch.get_rng_state()
    alone = [engine.generate([request])[0] for request in requests]

    def as_told(completions: Sequence[Completion]) -> list[Any]:
        return [replace(c, log_prob=c.log_prob and round(c.log_prob, 9)) for c in completions]

    assert as_told(engine.generate(requests)) == as_told(alone)
    assert as_told(engine.generate(requests[::-1])) == as_told(alone[::-1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [c.chosen is None for c in alone] == [r.schema is None for r in requests]


def test_schema_ignores_max_new_tokens(tiny64: LanguageModel) -> None:
    """Nor does a temperature other than 1 change what a text's log-probability is."""
    sampling = SamplingSpec(temperature=2.0, max_new_tokens=1, stop=("s",), top_p=1e-6)
    requests = [GenerationRequest(prompt=PROMPTS[0], sampling=sampling, schema=SCHEMA, seed=seed) for seed in range(20)]
    completions = engine_of(tiny64).generate(requests)
    assert len({completion.text for completion in completions}) > 8
    for completion in completions:
        Reference(tiny64, SCHEMA).check(completion, PROMPTS[0])


def test_one_pass_per_choice_and_prompts_read_once(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of one token each: three choices, three passes, whatever the literals; the first over distinct prompts."""
    schema: TextSchema = (
        "The quick brown fox ",
        Choice(name="a", options=("0", "1")),
        " jumps over the lazy dog. ",
        Choice(name="b", options=("2", "3", "4")),
        Choice(name="c", options=("5", "6")),
        " And that is all there is.",
    )
    sizes, checks = [], []

    def record(module: Any, args: Any, kwargs: Any) -> None:
        sizes.append(tuple(kwargs["input_ids"].shape))

    check = interruption.check
    monkeypatch.setattr(interruption, "check", lambda: (checks.append(1), check()))
    handle = tiny64.model.register_forward_pre_hook(record, with_kwargs=True)
    adapter = adapters_of(tiny64, 1)[0]
    requests = [
        GenerationRequest(prompt=p, sampling=SAMPLED, schema=schema, seed=seed, adapter=a)
        for p, a in ((PROMPTS[0], None), (PROMPTS[2], None), (PROMPTS[0], adapter))
        for seed in range(4)
    ]
    engine_of(tiny64).generate(requests)
    handle.remove()
    assert [size[0] for size in sizes] == [3, 12, 12]
    assert len(checks) == 3
    assert sizes[2][1] == 1, "a choice right behind another feeds the chosen token only"


@pytest.mark.parametrize("limit", [1, 3])
def test_constrained_batch_is_halved_when_out_of_memory(
    tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    requests = [GenerationRequest(prompt=PROMPTS[0], sampling=SAMPLED, schema=SCHEMA, seed=seed) for seed in range(7)]
    engine = engine_of(tiny64)
    expected, fill_batch = [c.token_ids for c in engine.generate(requests)], engine._fill_batch

    def limited(batch: Sequence[Any]) -> list[Completion]:
        if len(batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fill_batch(batch)

    monkeypatch.setattr(engine, "_fill_batch", limited)
    assert [c.token_ids for c in engine.generate(requests)] == expected


# --- schemas -----------------------------------------------------------------------------------------------------------

ask = partial(GenerationRequest, prompt="x", sampling=SAMPLED)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ((), "is empty"),
        ((KNOWN, " ", KNOWN), "different names"),
        ((NUMBER, KNOWN), "ambiguous"),
        ((NUMBER, "", KNOWN), "ambiguous"),
        ((NUMBER, "0"), "ambiguous"),
        ((NUMBER, "2 stones"), "ambiguous"),
    ],
)
def test_schema_tokens_rejects_ambiguous_schemas(tiny: LanguageModel, schema: TextSchema, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_of(tiny).generate([ask(schema=schema)])
    with pytest.raises(ConfigError, match=message):
        engine_of(tiny).score_choices([ChoiceScoreRequest(prompt="x", schema=schema, choices={})])


def test_schema_without_choices_is_returned_whole(tiny: LanguageModel) -> None:
    schema: TextSchema = ("all given",)
    alone, beside = engine_of(tiny).generate([ask(schema=schema), ask(schema=SHORT)])
    assert (alone.text, alone.choices, alone.log_prob) == ("all given", {}, 0.0)
    assert alone.token_ids == (*tiny.encode_text("all given"), tiny.eos_ids[0])
    assert alone.chosen == (False,) * len(alone.token_ids)
    assert beside.choices
    assert engine_of(tiny).generate([ask(schema=SHORT)])[0].text == beside.text


def test_prefix_options_are_allowed_before_literals(tiny64: LanguageModel) -> None:
    """The end token is chosen there; and options may nest several times."""
    schema: TextSchema = ("n = ", Choice(name="n", options=("100", "10", "1", "1000")))
    reference = Reference(tiny64, schema)
    requests = [GenerationRequest(prompt="x", sampling=SAMPLED, schema=schema, seed=seed) for seed in range(30)]
    completions = engine_of(tiny64).generate(requests)
    for completion in completions:
        reference.check(completion, "x")
        assert completion.chosen is not None
        assert completion.chosen[-1] == (completion.choices != {"n": "1000"})
    assert len({completion.text for completion in completions}) == 4


def test_engine_rejects_schema_over_the_context(tiny: LanguageModel) -> None:
    """To the token: the longest text and the end token."""
    schema: TextSchema = (KNOWN, ".")
    longest = SchemaTokens(schema, tiny).max_tokens
    assert longest == max(len(tiny.encode_text(option)) for option in KNOWN.options) + 2
    fits = tiny.decode(tiny.encode_text("0 " * MAX_LENGTH)[: MAX_LENGTH - longest])
    assert len(tiny.encode_prompt(fits)) == MAX_LENGTH - longest
    assert engine_of(tiny).generate([replace(ask(schema=schema), prompt=fits)])[0].text.endswith("e.")
    for work in (
        lambda: engine_of(tiny).generate([replace(ask(schema=schema), prompt=fits + " 0")]),
        lambda: engine_of(tiny).score_choices(
            [ChoiceScoreRequest(prompt=fits + " 0", schema=schema, choices={"known": "true"})]
        ),
    ):
        with pytest.raises(DataError, match="do not fit the model's context of 256"):
            work()
