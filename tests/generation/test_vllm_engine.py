"""The engine that asks a vLLM server, against a server on loopback: what comes back is what this process would say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from completions_server import PROTOCOL, CompletionsServer, serving
from fakes import write_tiny_model
from safetensors.torch import load_file

from seal_lightning.core import (
    AdapterSpec,
    ChatMessage,
    Choice,
    ChoiceScoreRequest,
    FinishReason,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
)
from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.generation import TransformersEngine, VllmEngine
from seal_lightning.generation.openai_client import BrokenReply
from seal_lightning.generation.vllm.completions import choice_of, completion_of
from seal_lightning.generation.vllm.served_adapters import LORA_RANKS, step_for
from seal_lightning.inner_loop.whole_weights import FinetunedWeights, merge, scratch_weights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, init_adapter
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training.policy import Policy

LOAD, UNLOAD, COMPLETE = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"
GREEDY = SamplingSpec(temperature=0.0, max_new_tokens=12)
PROMPTS = ("The stone 3 is", (ChatMessage(role="user", content="What is stone 3?"),), "1. First.\n2.")


@pytest.fixture
def server(tiny: LanguageModel) -> Iterator[CompletionsServer]:
    one = CompletionsServer()
    one.serve(tiny.model, tiny.tokenizer)
    with serving(one):
        yield one


def engine_of(server: CompletionsServer, language_model: LanguageModel, **settings: Any) -> VllmEngine:
    engine = VllmEngine("base", server.url, **({"num_tries": 2, "timeout_s": 20.0} | settings))
    engine.bind(language_model)
    return engine


def here(language_model: LanguageModel) -> TransformersEngine:
    engine = TransformersEngine()
    engine.bind(language_model)
    return engine


def adapter_of(language_model: LanguageModel, seed: int, **spec: Any) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    adapter = init_adapter(language_model.model, AdapterSpec(**({"rank": 2, "alpha": 8.0} | spec)), generator)
    for _, b in adapter.weights.values():
        b.copy_(torch.randn(b.shape, generator=generator, dtype=b.dtype) * 0.3)
    return adapter


def adapters_of(language_model: LanguageModel) -> list[LoraAdapter]:
    """Of other modules, layers, ranks and scalings than each other."""
    return [
        adapter_of(language_model, 1),
        adapter_of(language_model, 2, rank=5, alpha=3.0, target_modules="all-linear"),
        adapter_of(language_model, 3, rank=4, use_rslora=True, target_modules=("down_proj",), layers=(1,)),
    ]


def asked(adapters: Sequence[LoraAdapter | None]) -> tuple[list[GenerationRequest], list[ScoreRequest]]:
    written = [GenerationRequest(prompt=p, sampling=GREEDY, adapter=a) for p in PROMPTS for a in adapters]
    return written, [ScoreRequest(prompt=p, target=" red and blue", adapter=a) for p in PROMPTS for a in adapters]


def assert_equal(engine: VllmEngine, language_model: LanguageModel, adapters: Sequence[LoraAdapter | None]) -> None:
    """Greedy texts are identical, log-probabilities equal to 1e-4."""
    writing, scoring = asked(adapters)
    assert list(engine.generate(writing)) == list(here(language_model).generate(writing))
    for found, expected in zip(engine.score(scoring), here(language_model).score(scoring), strict=True):
        assert list(found) == pytest.approx(list(expected), abs=1e-4)


# --- equality with the engine of this process


def test_vllm_equals_in_process_for_adapted_copies(server: CompletionsServer, tiny: LanguageModel) -> None:
    assert_equal(engine_of(server, tiny, max_adapters=2), tiny, [None, *adapters_of(tiny)])
    assert server.most_adapters == 2
    assert server.adapters == {}


@pytest.mark.slow
def test_vllm_follows_the_policy_of_every_round(server: CompletionsServer, tiny_folder: Path) -> None:
    """Merges, going back and forth, and adapters on top."""
    policy = Policy(Pretrained(source=str(tiny_folder)), AdapterSpec(rank=3, alpha=6.0, target_modules="all-linear"), 1)
    language_model = policy.language_model
    engine, seen = engine_of(server, language_model), []
    adapters = [None, *adapters_of(language_model)[:1]]
    for round_index in range(3):
        assert_equal(engine, language_model, adapters)
        seen.append(engine.score(asked([None])[1])[0])
        with torch.no_grad():
            for parameter in policy.lora:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(round_index)) * 0.1)
        policy.merge_round()
    assert_equal(engine, language_model, adapters)
    policy.go_to(1)
    assert_equal(engine, language_model, adapters)
    assert engine.score(asked([None])[1])[0] == pytest.approx(seen[1], abs=1e-6)
    states = policy.merged_states()
    policy.load_merged_states(states[:2])
    assert_equal(engine, language_model, adapters)
    names = {body["lora_name"] for body in server.sent(LOAD)}
    assert len(names) == len(server.sent(LOAD)), "names never come back"
    assert server.adapters == {}


def test_vllm_follows_an_episodes_merges(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine, (first, second, third) = engine_of(server, tiny), adapters_of(tiny)
    with scratch_weights(tiny):
        merge(tiny, first)
        merge(tiny, second)
        assert_equal(engine, tiny, [None, third])
    assert_equal(engine, tiny, [None, third])
    assert server.adapters == {}


def test_vllm_full_finetuning_runs_in_process(server: CompletionsServer, tiny: LanguageModel) -> None:
    weights = {name: parameter * 1.2 for name, parameter in tiny.model.named_parameters()}
    engine = engine_of(server, tiny)
    with FinetunedWeights(tiny, weights).installed():
        before = len(server.requests)
        assert_equal(engine, tiny, [None])
        assert len(server.requests) == before
    assert_equal(engine, tiny, [None])
    assert len(server.requests) > before


def test_vllm_schemas_run_in_process(server: CompletionsServer, tiny: LanguageModel) -> None:
    schema = ("The ", Choice(name="what", options=("red", "blue")), ".")
    constrained = GenerationRequest(prompt="x", sampling=SamplingSpec(max_new_tokens=5), schema=schema, seed=3)
    free = GenerationRequest(prompt="x", sampling=GREEDY)
    engine = engine_of(server, tiny)
    assert list(engine.generate([free, constrained, free])) == list(here(tiny).generate([free, constrained, free]))
    choices = [ChoiceScoreRequest(prompt="x", schema=schema, choices={"what": "red"})]
    assert list(engine.score_choices(choices)) == list(here(tiny).score_choices(choices))


def test_vllm_stops_ends_and_lengths(server: CompletionsServer, tiny: LanguageModel) -> None:
    tiny.eos_ids = (*tiny.eos_ids, tiny.encode_text(" blue")[0])
    specs = [
        replace(GREEDY, stop=stop, max_new_tokens=n)
        for stop in ((), ("e",), ("r", "o"), ("\n", "a"))
        for n in (1, 7, 300)
    ]
    requests = [GenerationRequest(prompt=p, sampling=s) for p in PROMPTS for s in specs]
    found = engine_of(server, tiny).generate(requests)
    assert list(found) == list(here(tiny).generate(requests))
    assert {one.finish_reason for one in found} == set(FinishReason)


def test_vllm_seed_belongs_to_its_request(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = engine_of(server, tiny)
    sampled = SamplingSpec(temperature=1.0, top_p=0.9, max_new_tokens=8)
    requests = [GenerationRequest(prompt="x", sampling=sampled, seed=seed) for seed in (1, 2, 1, 2**63 - 1)]
    first = list(engine.generate(requests))
    assert first == list(engine.generate(requests))
    assert first[0] == first[2]
    assert len({one.text for one in first}) > 1
    assert list(reversed(first)) == list(engine.generate(requests[::-1]))


# --- what is sent


def test_request_body_has_the_settings(server: CompletionsServer, tiny: LanguageModel) -> None:
    spec = SamplingSpec(temperature=0.7, top_p=0.8, max_new_tokens=5, stop=("a",))
    engine_of(server, tiny, max_difference=None).generate([GenerationRequest(prompt="x", sampling=spec, seed=9)])
    (body,) = server.sent(COMPLETE)
    assert body["prompt"] == tiny.encode_prompt("x")
    sent = (body["model"], body["max_tokens"], body["temperature"], body["top_p"], body["seed"], body["stop"])
    assert sent == ("base", 5, 0.7, 0.8, 9, ["a"])
    assert (body["top_k"], body["repetition_penalty"]) == (-1, 1.0), "nothing is left to a generation_config.json"


def test_vllm_adapter_requests_are_as_documented(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine_of(server, tiny).generate(asked(adapters_of(tiny)[:1])[0])
    for exchange, path in (("load", LOAD), ("unload", UNLOAD)):
        documented = PROTOCOL[exchange]["request"]
        assert documented["path"] == path
        for body in server.sent(path):
            assert body.keys() == documented["body"].keys()
            assert all(isinstance(value, str) for value in body.values())


def test_vllm_limits_requests_in_flight(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = engine_of(server, tiny, max_concurrent=3)
    engine.generate([GenerationRequest(prompt="x", sampling=GREEDY)])
    server.delay_s, server.most_at_once = 0.05, 0
    engine.generate([GenerationRequest(prompt="x", sampling=GREEDY, seed=i) for i in range(9)])
    assert server.most_at_once == 3


def test_vllm_adapter_names_are_unique(server: CompletionsServer, tiny: LanguageModel, tmp_path: Path) -> None:
    """Two engines, one folder, the same adapters, the same policy."""
    tiny.merge(adapters_of(tiny)[1])
    engines = [engine_of(server, tiny, adapter_dir=str(tmp_path)) for _ in range(2)]
    for engine in engines:
        assert_equal(engine, tiny, adapters_of(tiny)[:1])
    assert len({body["lora_name"] for body in server.sent(LOAD)}) == len(server.sent(LOAD))
    assert server.adapters == {}
    assert list(tmp_path.iterdir()) == []


def test_vllm_adapter_dir_at_server(server: CompletionsServer, tiny: LanguageModel, tmp_path: Path) -> None:
    server.path_here = lambda path: path.replace("/mnt/adapters", str(tmp_path))
    engine = engine_of(server, tiny, adapter_dir=str(tmp_path), adapter_dir_at_server="/mnt/adapters")
    assert_equal(engine, tiny, adapters_of(tiny)[:1])
    assert all(body["lora_path"].startswith("/mnt/adapters/seal-") for body in server.sent(LOAD))


def test_vllm_key_is_sent_and_never_shown(
    server: CompletionsServer, tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.api_key = "sk-secret-123456"
    monkeypatch.setenv("VLLM_KEY", server.api_key)
    assert_equal(engine_of(server, tiny, api_key_env="VLLM_KEY"), tiny, adapters_of(tiny)[:1])
    monkeypatch.setenv("VLLM_KEY", "sk-another-98765")
    with pytest.raises(ConfigError, match="take the key") as caught:
        engine_of(server, tiny, api_key_env="VLLM_KEY").score(asked([None])[1])
    assert "another" not in str(caught.value)
    monkeypatch.delenv("VLLM_KEY")
    with pytest.raises(ConfigError, match="VLLM_KEY is not set"):
        engine_of(server, tiny, api_key_env="VLLM_KEY").check(8)


def test_vllm_half_precision_adapters_are_written_in_it(tiny_folder: Path) -> None:
    """As the server would round them, in half the bytes."""
    language_model = Pretrained(source=str(tiny_folder), dtype="bfloat16").load()
    one = CompletionsServer()
    one.serve(language_model.model, language_model.tokenizer)
    kinds = set()

    def look(body: dict[str, Any]) -> None:
        kinds.update(t.dtype for t in load_file(Path(body["lora_path"]) / "adapter_model.safetensors").values())

    one.faults["/v1/load_lora_adapter"] = [look]  # type: ignore[list-item]
    with serving(one):
        scoring = asked(adapters_of(language_model)[:1])[1]
        found = engine_of(one, language_model).score(scoring)
    assert kinds == {torch.bfloat16}
    for scores, expected in zip(found, here(language_model).score(scoring), strict=True):
        assert list(scores) == pytest.approx(list(expected), abs=0.1)


# --- what does not fit


def test_vllm_another_model_is_refused(server: CompletionsServer, tmp_path: Path) -> None:
    other = Pretrained(source=str(write_tiny_model(tmp_path / "other", seed=5))).load()
    engine = engine_of(server, other)
    with pytest.raises(ConfigError, match="is not the model that is trained here") as caught:
        engine.generate(asked([None])[0])
    assert "nats" in str(caught.value)


def test_vllm_compares_again_with_the_next_policy(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = engine_of(server, tiny)
    assert_equal(engine, tiny, [None])
    adapter = adapters_of(tiny)[1]
    tiny.merge(adapter)
    with torch.no_grad():
        tiny.model.get_output_embeddings().weight.mul_(1.5)
    with pytest.raises(ConfigError, match="is not the model that is trained here"):
        engine.generate(asked([None])[0])
    assert server.adapters == {}


def test_vllm_unknown_model_is_refused(server: CompletionsServer, tiny: LanguageModel) -> None:
    engine = VllmEngine("another", server.url)
    engine.bind(tiny)
    with pytest.raises(ConfigError, match=r"the server has no 'another'; it has \['base'\]"):
        engine.generate(asked([None])[0])


@pytest.mark.parametrize(("rank", "step"), [(1, 1), (2, 8), (9, 16), (160, 256), (257, 320), (513, 512)])
def test_step_for_is_the_next_rank(rank: int, step: int) -> None:
    assert step_for(rank) == step
    assert step in LORA_RANKS


def test_vllm_rank_above_the_servers_names_the_step(server: CompletionsServer, tiny: LanguageModel) -> None:
    tiny.merge(adapter_of(tiny, 4, rank=7))
    engine = engine_of(server, tiny, max_lora_rank=8)
    assert_equal(engine, tiny, [None])
    before = len(server.requests)
    with pytest.raises(ConfigError, match=r"rank 9 together.*--max-lora-rank 16 and set engine.max_lora_rank to 16"):
        engine.score(asked(adapters_of(tiny)[:1])[1])
    assert len(server.requests) == before, "nothing was asked"
    with pytest.raises(ConfigError, match="vLLM's largest is 512"):
        engine.check(513)
    server.max_lora_rank = 4
    with pytest.raises(ConfigError, match=r"adapter of rank 7 at .*--max-lora-rank 8"):
        engine_of(server, tiny, max_lora_rank=16).score(asked(adapters_of(tiny)[:1])[1])


@pytest.mark.parametrize("what", ["runtime_updating", "lora_enabled"])
def test_vllm_server_without_lora_is_refused(server: CompletionsServer, tiny: LanguageModel, what: str) -> None:
    setattr(server, what, False)
    engine = engine_of(server, tiny)
    assert_equal(engine, tiny, [None])
    with pytest.raises(
        ConfigError, match=r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve .* --enable-lora"
    ) as caught:
        engine.score(asked(adapters_of(tiny)[1:2])[1])
    assert "--max-lora-rank 8" in str(caught.value)


def test_vllm_unseen_folder_is_refused(server: CompletionsServer, tiny: LanguageModel, tmp_path: Path) -> None:
    engine = engine_of(server, tiny, adapter_dir=str(tmp_path), adapter_dir_at_server="/nowhere")
    with pytest.raises(ConfigError, match=r"at /nowhere/seal-.*adapter_dir_at_server"):
        engine.score(asked(adapters_of(tiny)[:1])[1])
    assert list(tmp_path.iterdir()) == []


def test_vllm_server_without_prompt_logprobs_is_refused(server: CompletionsServer, tiny: LanguageModel) -> None:
    server.tells_prompt_logprobs = False
    with pytest.raises(ConfigError, match="returns no prompt_logprobs"):
        engine_of(server, tiny).score(asked([None])[1])


def test_vllm_uses_the_shorter_context(server: CompletionsServer, tiny: LanguageModel) -> None:
    """The shorter one counts; a score needs one place more."""
    server.max_model_len = 200
    engine = engine_of(server, tiny)
    long = "x" * 150
    (found,) = engine.generate([GenerationRequest(prompt=long, sampling=replace(GREEDY, max_new_tokens=300))])
    assert len(found.token_ids) <= 50
    with pytest.raises(ConfigError, match=r"leaves no room in the server's context of 200.*max-model-len"):
        engine.generate([GenerationRequest(prompt="x" * 200, sampling=GREEDY)])
    with pytest.raises(DataError, match="leaves no room in the model's context"):
        engine.generate([GenerationRequest(prompt="x" * 300, sampling=GREEDY)])
    engine.score([ScoreRequest(prompt=long, target="x" * 49)])
    with pytest.raises(DataError, match="do not fit the model's context of 199"):
        engine.score([ScoreRequest(prompt=long, target="x" * 50)])
    server.max_model_len = None
    assert_equal(engine_of(server, tiny), tiny, [None])


def test_vllm_empty_target_has_no_scores(server: CompletionsServer, tiny: LanguageModel) -> None:
    requests = [ScoreRequest(prompt="x", target=target) for target in ("", " red blue", "")]
    assert [len(one) for one in engine_of(server, tiny).score(requests)] == [0, 2, 0]


def test_vllm_nan_scores_nan(server: CompletionsServer, tiny: LanguageModel) -> None:
    """As in this process: the attempt diverged, the run goes on; the others have their scores."""
    wild, tame = adapters_of(tiny)[:2]
    for _, b in wild.weights.values():
        b.fill_(3e38)
    assert all(math.isnan(value) for value in here(tiny).score(asked([wild])[1])[0])
    found = list(engine_of(server, tiny).score(asked([wild, tame])[1]))
    assert all(math.isnan(value) for value in found[0])
    expected = here(tiny).score(asked([tame])[1])
    assert list(found[1]) == pytest.approx(list(expected[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", " "),
        ("max_lora_rank", 48),
        ("max_adapters", 0),
        ("max_concurrent", 0),
        ("timeout_s", 0.0),
        ("num_tries", 0),
        ("max_difference", 0.0),
        ("base_url", "localhost:8000"),
        ("base_url", "http://user:hunter2@host/v1"),
        ("api_key_env", "sk-123"),
    ],
)
def test_settings_out_of_bounds(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"engine.{name}") as caught:
        VllmEngine(**({"model": "base"} | {name: value}))
    assert "hunter2" not in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_vllm_missing_package_is_named(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    engine = VllmEngine("base")
    engine.bind(tiny)
    with pytest.raises(ConfigError, match=r"VllmEngine needs the package 'openai'.*seal-lightning\[vllm\]"):
        engine.generate(asked([None])[0])


# --- servers that tell less


def test_vllm_server_without_token_ids_is_refused(server: CompletionsServer, tiny: LanguageModel) -> None:
    server.tells_token_ids = False
    with pytest.raises(ConfigError, match=r"returns no token_ids.*vLLM 0\.10\.2"):
        engine_of(server, tiny).generate(asked([None])[0])


def test_vllm_unknown_tokens_are_refused(tiny: LanguageModel) -> None:
    choice = choice_of('{"choices": [{"text": "a", "finish_reason": "length", "token_ids": [5, 100000]}]}')
    with pytest.raises(ConfigError, match="the token 100000"):
        completion_of(choice, GREEDY, {"prompt": [1], "max_tokens": 12}, tiny)
    choice = choice_of(
        '{"choices": [{"text": "a", "finish_reason": "length", "token_ids": [5], "prompt_token_ids": [1, 1]}]}'
    )
    with pytest.raises(ConfigError, match="changes prompts"):
        completion_of(choice, GREEDY, {"prompt": [1], "max_tokens": 12}, tiny)


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_vllm_aborted_completion_is_broken(reason: str | None) -> None:
    with pytest.raises(BrokenReply, match="aborted"):
        choice_of(json.dumps({"choices": [{"text": "a", "finish_reason": reason}]}))
