"""The engine for scale: a vLLM server writes and scores, and this process trains.

The server has the pretrained model; the policy is that and its merged LoRAs, so it is asked through an adapter which is
their sum, and an adapted copy of the policy through the sum of those and its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from seal_lightning.core import Adapter, ChoiceScoreRequest, Completion, GenerationRequest, ScoreRequest
from seal_lightning.core.errors import ConfigError, RunError, require, shown
from seal_lightning.core.interfaces import Engine
from seal_lightning.generation.endpoints import api_key, check_installed, check_settings
from seal_lightning.generation.targets import prompt_and_target
from seal_lightning.generation.transformers_engine import TransformersEngine
from seal_lightning.generation.vllm.adapters import LORA_RANKS, VllmAdapters, check_rank
from seal_lightning.generation.vllm.client import VllmClient
from seal_lightning.generation.vllm.reply import choice_of, log_probs_of
from seal_lightning.generation.vllm.requests import completion_of, generation_body, score_body
from seal_lightning.generation.vllm.session import Reader, VllmSession
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter

_PROBE = ScoreRequest(
    prompt="A lighthouse keeper wrote in her diary:",
    target=" On the third of March the storm broke two windows, and we ate bread and cold fish until the boat came.",
)


class VllmEngine(Engine):
    """Asks a vLLM server that has the pretrained model. Not run against a real vLLM yet: see docs/vllm.md.

    What a server cannot do exactly, constrained decoding and models whose weights no LoRA tells (full finetuning), the
    bound model answers in this process.

    Args:
        model: the pretrained model's name at the server.
        base_url: ``http(s)://HOST[:PORT]/PATH``, with its ``/v1``.
        api_key_env: the environment variable that has the key; None for a server that asks for none. The key is never
            stored, shown or logged.
        adapter_dir: a folder that this process and the server see, for adapters on their way; None is a temporary one of
            this machine.
        adapter_dir_at_server: the same folder as the server sees it; None is by the same path.
        max_lora_rank: the server's ``--max-lora-rank``, one of vLLM's steps: at least rounds · policy rank + the edit's rank.
        max_adapters: ≥ 1, adapters loaded at a time beside the policy's.
        max_concurrent: ≥ 1, requests in flight.
        timeout_s: > 0, seconds of one request.
        num_tries: ≥ 1, how often a request is sent where that may help, with growing waits.
        max_difference: > 0, nats: how far the server's log-probabilities of a text may be from the bound model's, in the
            mean; looked at whenever the policy has changed. None does not look.
        in_process: answers what the server cannot; :class:`TransformersEngine` by default.
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
        check_settings(base_url, api_key_env, "engine")
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
        self._session: VllmSession | None = None
        self._max_length = 0

    def check(self, largest_rank: int) -> None:
        """Raise :class:`ConfigError` where a package or the key is missing, or the rank is above the server's."""
        instead = "engine seal_lightning.generation.TransformersEngine"
        check_installed(("httpx2", "tenacity"), type(self).__name__, "vllm", instead)
        api_key(self.api_key_env, "engine")
        check_rank(largest_rank, self.max_lora_rank)

    def bind(self, language_model: LanguageModel) -> None:
        """Ask the server for this model from now on; the server is met at the first request."""
        self.language_model = language_model
        self.in_process.bind(language_model)
        self._end_session()

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        """One completion a request, in order; those with a schema are written in this process.

        Raises :class:`RunError` where the server is away: the run ends and can go on; :class:`ConfigError` where it is not
        what the settings say.
        """
        whole = self.language_model.merged is None
        here = [i for i, request in enumerate(requests) if whole or request.schema is not None]
        there = [i for i, request in enumerate(requests) if not whole and request.schema is None]
        found: dict[int, Completion] = {}
        if here:
            found |= zip(here, self.in_process.generate([requests[i] for i in here]), strict=True)
        if there:
            found |= zip(there, self._written([requests[i] for i in there]), strict=True)
        return [found[i] for i in range(len(requests))]

    def _written(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        session = self._met()
        bodies = [generation_body(request, self.language_model, self._max_length) for request in requests]
        choices = session.answers([_lora(request.adapter) for request in requests], bodies, [choice_of] * len(bodies))
        completions = []
        for request, body, choice in zip(requests, bodies, choices, strict=True):
            if choice is None:
                raise RunError("engine: the server computed a NaN where text was asked for; what is stored is kept")
            completions.append(completion_of(choice, request.sampling, body, self.language_model))
        return completions

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        """The log-probability of each target token after its prompt; NaN where the server computes one.

        Raises what :meth:`generate` does, and :class:`DataError` for a prompt and target that leave no room for one token
        more in the context.
        """
        if self.language_model.merged is None:
            return self.in_process.score(requests)
        if not requests:
            return []
        session = self._met()
        sequences = [self._with_target(request) for request in requests]
        asked = [i for i, (_, num_targets) in enumerate(sequences) if num_targets]
        found = session.answers(
            [_lora(requests[i].adapter) for i in asked],
            [score_body(sequences[i][0]) for i in asked],
            [_score_reader(*sequences[i]) for i in asked],
        )
        scores: dict[int, list[float]] = {}
        for i, log_probs in zip(asked, found, strict=True):
            scores[i] = [math.nan] * sequences[i][1] if log_probs is None else log_probs
        return [scores.get(i, []) for i in range(len(requests))]

    def score_choices(self, requests: Sequence[ChoiceScoreRequest]) -> Sequence[float]:
        """The log-probability of given choices, request by request, in order; computed in this process."""
        return self.in_process.score_choices(requests) if requests else []

    def _met(self) -> VllmSession:
        """The server, once it is known to be what the settings say, with the policy's adapter as the policy now is."""
        if self._session is None:
            self.check(0)
            self._session = self._new_session()
            told = self._session.meet()
            own = self.language_model.max_length
            self._max_length = own if told is None else min(own, told)
        assert self.language_model.merged is not None
        if self._session.follow(self.language_model.merged) and self.max_difference is not None:
            self._compare(self._session, self.max_difference)
        return self._session

    def _new_session(self) -> VllmSession:
        key = api_key(self.api_key_env, "engine")
        model = self.language_model.model
        adapters = VllmAdapters(
            self.adapter_dir,
            self.adapter_dir_at_server,
            self.max_lora_rank,
            base_model=model.config.name_or_path or self.model,
            dtype=model.dtype,
        )

        def connect() -> VllmClient:
            return VllmClient(self.base_url, key, self.timeout_s, self.num_tries, self.max_concurrent)

        return VllmSession(connect, adapters, self.model, self.max_adapters, (self.base_url, key))

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.end()
        self._session = None

    def _compare(self, session: VllmSession, max_difference: float) -> None:
        """Raise :class:`ConfigError` where the server's model is not the bound one."""
        (here,) = self.in_process.score([_PROBE])
        ids, num_targets = self._with_target(_PROBE)
        (there,) = session.answers([None], [score_body(ids)], [_score_reader(ids, num_targets)])
        pairs = zip(here, there or [math.nan] * num_targets, strict=True)
        difference = sum(abs(x - y) for x, y in pairs) / num_targets
        if difference <= max_difference:
            return
        self._end_session()
        raise ConfigError(
            f"engine.model: the server's {shown(self.model)} is not what is trained here: its log-probabilities of a text "
            f"differ by {difference:.3g} nats in the mean; allowed are {max_difference:g} (engine.max_difference). Serve the "
            "model that model.pretrained names, in its precision (a model.student is asked through the same server)"
        )

    def _with_target(self, request: ScoreRequest) -> tuple[list[int], int]:
        """Ids of prompt and target, and how many are the target's; the server writes one token behind them."""
        prompt, target = prompt_and_target(request, self.language_model, self._max_length - 1)
        return [*prompt, *target], len(target)


def _score_reader(ids: list[int], num_targets: int) -> Reader[list[float]]:
    """Raises :class:`ConfigError` where the server tells no log-probabilities of prompts."""

    def read(body: bytes) -> list[float]:
        found = log_probs_of(choice_of(body), ids, num_targets)
        if found is None:
            raise ConfigError(
                "engine: the server tells no prompt_logprobs, which answers are scored by; vLLM does (without --disable-log"
                "probs or a proxy that drops fields)"
            )
        return found

    return read


def _lora(adapter: Adapter | None) -> LoraAdapter | None:
    assert adapter is None or isinstance(adapter, LoraAdapter)
    return adapter
