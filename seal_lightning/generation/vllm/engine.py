"""The engine for scale: a vLLM server generates and scores, and this process trains.

The server has the pretrained model. The policy is that model and its merged LoRAs, so requests to it go through an adapter
that is their sum; requests to an adapted copy go through the sum of those and its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from seal_lightning.core import Adapter, ChoiceScoreRequest, Completion, GenerationRequest, ScoreRequest
from seal_lightning.core.errors import ConfigError, RunError, SealError, require, shown
from seal_lightning.core.interfaces import Engine
from seal_lightning.distributed.background_loop import run_in_background
from seal_lightning.generation.openai_client import (
    OpenAIClient,
    RequestFailed,
    api_key,
    check_endpoint,
    check_installed,
)
from seal_lightning.generation.prompt_lengths import encode_prompt_and_target
from seal_lightning.generation.transformers_engine import TransformersEngine
from seal_lightning.generation.vllm.completions import (
    ServedModel,
    choice_of,
    completion_of,
    generation_body,
    log_probs_of,
    models_of,
    score_body,
)
from seal_lightning.generation.vllm.served_adapters import LORA_RANKS, VllmAdapters, check_rank
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter

T = TypeVar("T")
Reader = Callable[[str], T]

_PROBE = ScoreRequest(
    prompt="A lighthouse keeper wrote in her diary:",
    target=" On the third of March the storm broke two windows, and we ate bread and cold fish until the boat came.",
)
_NAN_IN_JSON = "not JSON compliant"
"""Part of the error of a server that cannot write a NaN."""


class VllmEngine(Engine):
    """Engine that asks a vLLM server with the pretrained model. Not run against a real vLLM yet: see docs/vllm.md.

    Requests that a server cannot serve exactly, constrained decoding and models whose weights are not a LoRA (full
    finetuning), are computed by the bound model in this process.

    Args:
        model: the pretrained model's name at the server.
        base_url: ``http(s)://HOST[:PORT]/PATH``, with its ``/v1``.
        api_key_env: the environment variable with the key; None for a server without one. The key is never stored, shown
            or logged.
        adapter_dir: a folder that this process and the server see, for adapters; None is a temporary one of this machine.
        adapter_dir_at_server: the same folder as the server sees it; None is the same path.
        max_lora_rank: the server's ``--max-lora-rank``, one of vLLM's steps: at least rounds · policy rank + the edit's rank.
        max_adapters: ≥ 1, adapters loaded at a time.
        max_concurrent: ≥ 1, requests in flight.
        timeout_s: > 0, seconds to wait for the server in one request.
        num_tries: ≥ 1, of one request where a retry may help, with growing waits.
        max_difference: > 0, nats: the largest mean distance of the server's log-probabilities of a text from the bound
            model's, checked whenever the policy has changed. None does not check.
        in_process: computes what the server cannot; :class:`TransformersEngine` by default.

    Example:
        >>> engine = VllmEngine("Qwen/Qwen2.5-7B", max_lora_rank=64)
        >>> engine.check(largest_rank=32)
    """

    def __init__(
        self,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        api_key_env: str | None = None,
        adapter_dir: str | None = None,
        adapter_dir_at_server: str | None = None,
        max_lora_rank: int = 256,
        max_adapters: int = 8,
        max_concurrent: int = 64,
        timeout_s: float = 600.0,
        num_tries: int = 5,
        max_difference: float | None = 0.2,
        in_process: Engine | None = None,
    ) -> None:
        require(bool(model.strip()), "engine.model", model, "the model's name at the server")
        require(max_lora_rank in LORA_RANKS, "engine.max_lora_rank", max_lora_rank, f"one of {LORA_RANKS}")
        require(max_adapters >= 1, "engine.max_adapters", max_adapters, "at least 1")
        require(max_concurrent >= 1, "engine.max_concurrent", max_concurrent, "at least 1")
        require(0 < timeout_s < math.inf, "engine.timeout_s", timeout_s, "above 0, in seconds")
        require(num_tries >= 1, "engine.num_tries", num_tries, "at least 1")
        close = max_difference is None or 0 < max_difference < math.inf
        require(close, "engine.max_difference", max_difference, "null, or above 0, in nats")
        check_endpoint(base_url, api_key_env, "engine")
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.adapter_dir = adapter_dir
        self.adapter_dir_at_server = adapter_dir_at_server
        self.max_lora_rank = max_lora_rank
        self.max_adapters = max_adapters
        self.max_concurrent = max_concurrent
        self.timeout_s = timeout_s
        self.num_tries = num_tries
        self.max_difference = max_difference
        self.in_process = in_process or TransformersEngine()
        self._adapters: VllmAdapters | None = None
        self._max_length = 0
        self._compared: tuple[LoraAdapter, ...] | None = None
        """The merged LoRAs of the policy that the server was last compared with."""

    def check(self, largest_rank: int) -> None:
        """Raise :class:`ConfigError` where the package or the key is missing, or the rank is above the server's."""
        check_installed(("openai",), "VllmEngine", "vllm", "engine seal_lightning.generation.TransformersEngine")
        api_key(self.api_key_env, "engine")
        check_rank(largest_rank, self.max_lora_rank)

    def bind(self, language_model: LanguageModel) -> None:
        """Ask the server for this model from now on; it is contacted at the first request."""
        self.language_model = language_model
        self.in_process.bind(language_model)
        self._adapters = self._compared = None

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """Return one completion per request, in order; those with a schema are generated in this process.

        Raises :class:`RunError` where the server is down: the run ends and can be resumed; :class:`ConfigError` where it does
        not match the settings.
        """
        local = [self.language_model.merged is None or request.schema is not None for request in requests]
        here = [request for request, is_local in zip(requests, local, strict=True) if is_local]
        there = [request for request, is_local in zip(requests, local, strict=True) if not is_local]
        from_here = iter(self.in_process.generate(here) if here else [])
        from_there = iter(self._generated(there) if there else [])
        return [next(from_here if is_local else from_there) for is_local in local]

    def _generated(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self._connect()
        bodies = [generation_body(request, self.language_model, self._max_length) for request in requests]
        choices = self._answers([_lora(request.adapter) for request in requests], bodies, [choice_of] * len(bodies))
        completions = []
        for request, body, choice in zip(requests, bodies, choices, strict=True):
            if choice is None:
                raise RunError(
                    "engine: the server computed a NaN while generating; resume with `seal fit --resume RUN`"
                )
            completions.append(completion_of(choice, request.sampling, body, self.language_model))
        return completions

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """Return the log-probability of each target token after its prompt; NaN where the server computes one.

        Raises what :meth:`generate` does, and :class:`DataError` for a prompt and target that leave no room for one token
        more in the context.
        """
        if self.language_model.merged is None:
            return self.in_process.score(requests)
        if not requests:
            return []
        self._connect()
        sequences = [self._with_target(request) for request in requests]
        scored = [i for i, (_, num_targets) in enumerate(sequences) if num_targets]
        found = self._answers(
            [_lora(requests[i].adapter) for i in scored],
            [score_body(sequences[i][0]) for i in scored],
            [_score_reader(*sequences[i]) for i in scored],
        )
        scores: dict[int, list[float]] = {}
        for i, log_probs in zip(scored, found, strict=True):
            scores[i] = [math.nan] * sequences[i][1] if log_probs is None else log_probs
        return [scores.get(i, []) for i in range(len(requests))]

    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """Return the log-probability of given choices, request by request, in order; computed in this process."""
        return self.in_process.score_choices(requests) if requests else []

    def _connect(self) -> None:
        """Check the server against the settings at the first request, and against the bound model after each change."""
        if self._adapters is None:
            self.check(0)
            model = self.language_model.model
            self._adapters = VllmAdapters(
                self.adapter_dir,
                self.adapter_dir_at_server,
                self.max_lora_rank,
                base_model=model.config.name_or_path or self.model,
                dtype=model.dtype,
            )
            own, served = self.language_model.max_length, self._served_model().max_model_len
            self._max_length = own if served is None else min(own, served)
        merged = self.language_model.merged
        if self.max_difference is not None and merged != self._compared:
            self._compare(self.max_difference)
        self._compared = merged

    def _served_model(self) -> ServedModel:
        served: list[ServedModel] = []

        async def look(client: OpenAIClient) -> None:
            served.extend(await client.request("get", "/models", models_of))

        self._run(look)
        found = next((one for one in served if one.id == self.model), None)
        if found is None:
            names = [one.id for one in served]
            raise ConfigError(f"engine.model: the server has no {shown(self.model)}; it has {shown(names, 300)}")
        return found

    def _compare(self, max_difference: float) -> None:
        """Raise :class:`ConfigError` where the server's model is not the bound one."""
        (here,) = self.in_process.score([_PROBE])
        ids, num_targets = self._with_target(_PROBE)
        (there,) = self._answers([None], [score_body(ids)], [_score_reader(ids, num_targets)])
        pairs = zip(here, there or [math.nan] * num_targets, strict=True)
        difference = sum(abs(x - y) for x, y in pairs) / num_targets
        if not difference <= max_difference:
            raise ConfigError(
                f"engine.model: the server's {shown(self.model)} is not the model that is trained here: its "
                f"log-probabilities of a text differ by {difference:.3g} nats in the mean, and engine.max_difference is "
                f"{max_difference:g}. Serve the model of model.pretrained, in its precision (model.student uses the same "
                "server)"
            )

    def _with_target(self, request: ScoreRequest) -> tuple[list[int], int]:
        """Return the ids of prompt and target, and the number of target tokens; the server writes one token behind them."""
        prompt, target = encode_prompt_and_target(request, self.language_model, self._max_length - 1)
        return [*prompt, *target], len(target)

    def _answers(
        self, adapters: Sequence[LoraAdapter | None], bodies: Sequence[dict[str, Any]], readers: Sequence[Reader[T]]
    ) -> list[T | None]:
        """Return the completions as the readers parse them, in order; None where the server could not write a NaN.

        Args:
            adapters: of the policy, for each request; None is the policy itself.
            bodies: of the requests, without their ``model``.
            readers: of the replies.
        """
        loader, merged = self._adapters, self.language_model.merged
        assert loader is not None
        assert merged is not None
        found: dict[int, T | None] = {}
        parts = {id(one): (*merged, one) if one is not None else merged for one in adapters}
        sums = {key: loader.merged(part) for key, part in parts.items() if part}

        async def ask(client: OpenAIClient, free: asyncio.Semaphore, names: dict[int, str]) -> None:
            async def answer(i: int) -> None:
                body = {"model": names[id(adapters[i])], **bodies[i]}
                async with free:
                    try:
                        found[i] = await client.request("post", "/completions", readers[i], body)
                    except RequestFailed as error:
                        if _NAN_IN_JSON not in str(error):
                            raise
                        found[i] = None

            await _together([answer(i) for i, adapter in enumerate(adapters) if id(adapter) in names])

        async def ask_all(client: OpenAIClient) -> None:
            free = asyncio.Semaphore(self.max_concurrent)
            await ask(client, free, {key: self.model for key in parts if key not in sums})
            keys = list(sums)
            for start in range(0, len(keys), self.max_adapters):
                group = keys[start : start + self.max_adapters]
                async with loader.loaded(client, [sums[key] for key in group]) as names:
                    await ask(client, free, dict(zip(group, names, strict=True)))

        self._run(ask_all)
        return [found[i] for i in range(len(bodies))]

    def _run(self, work: Callable[[OpenAIClient], Coroutine[Any, Any, None]]) -> None:
        """Run requests on a background thread; a stop of the run is heeded meanwhile."""

        async def connected() -> None:
            key = api_key(self.api_key_env, "engine")
            client = OpenAIClient(self.base_url, key, self.timeout_s, self.num_tries - 1)
            async with client.open():
                await work(client)

        try:
            run_in_background(connected(), "seal-vllm")
        except RequestFailed as error:
            raise self._explained(error) from error

    def _explained(self, error: RequestFailed) -> SealError:
        """Return an error that says what to do about a failed request."""
        if error.is_temporary:
            return RunError(
                f"engine.base_url: the server {self.base_url} gave no usable answer in {self.num_tries} tries ({error}). No "
                "attempt is scored by that; start the server again and resume with `seal fit --resume RUN`"
            )
        return ConfigError(
            f"engine: the server refuses a request: {error}. It must be vLLM, take the key of engine.api_key_env, and have a "
            "--max-model-len that holds prompt and answer"
        )


async def _together(work: Sequence[Awaitable[None]]) -> None:
    """Run all at once; the first error cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _score_reader(ids: list[int], num_targets: int) -> Reader[list[float]]:
    return lambda body: log_probs_of(choice_of(body), ids, num_targets)


def _lora(adapter: Adapter | None) -> LoraAdapter | None:
    assert adapter is None or isinstance(adapter, LoraAdapter)
    return adapter
