"""Bodies of requests to vLLM's completions endpoint, and its replies, validated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from seal_lightning.core import Completion, FinishReason, GenerationRequest, SamplingSpec
from seal_lightning.core.errors import ConfigError
from seal_lightning.generation.decoding import finish_completion
from seal_lightning.generation.openai_client import BrokenReply, ReplyPart, parsed
from seal_lightning.models.language_model import LanguageModel

_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Always sent, because a server takes missing values from the model's ``generation_config.json``."""
_LOWEST = -9999.0
"""The value by which a server writes minus infinity."""

_Id = Annotated[int, Field(ge=0)]


class _LogProb(ReplyPart):
    logprob: float | None


class ReplyChoice(ReplyPart):
    """One completion; ``prompt_logprobs`` has, for each token of the prompt but the first, values by token id."""

    finish_reason: str | None = None
    token_ids: list[_Id] | None = None
    prompt_token_ids: list[_Id] | None = None
    prompt_logprobs: list[dict[str, _LogProb] | None] | None = None


class _CompletionReply(ReplyPart):
    choices: Annotated[list[ReplyChoice], Field(min_length=1, max_length=1)]


class ServedModel(ReplyPart):
    """One model or adapter of a server; its context is in tokens."""

    id: str
    max_model_len: int | None = None


class _ModelList(ReplyPart):
    data: list[ServedModel]


def generation_body(request: GenerationRequest, language_model: LanguageModel, max_length: int) -> dict[str, Any]:
    """Return the body of a request for text, without its ``model``.

    Raises :class:`ConfigError` where the server's context is too short for the prompt.
    """
    ids = language_model.encode_prompt(request.prompt)
    room = max_length - len(ids)
    if room < 1:
        raise ConfigError(
            f"engine: a prompt of {len(ids)} tokens leaves no room in the server's context of {max_length}; start it with a "
            f"larger --max-model-len (the model's own is {language_model.max_length})"
        )
    spec = request.sampling
    return {
        "prompt": ids,
        "max_tokens": min(spec.max_new_tokens, room),
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "seed": request.seed,
        "stop": list(spec.stop),
        "stop_token_ids": list(language_model.eos_ids),
        "return_token_ids": True,
        **_NEUTRAL,
    }


def score_body(ids: list[int]) -> dict[str, Any]:
    """Return the body of a request for log-probabilities of these tokens; the server must write at least one token more."""
    return {"prompt": ids, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "prompt_logprobs": 1, **_NEUTRAL}


def choice_of(body: str) -> ReplyChoice:
    """Return the completion in a body. Raises :class:`BrokenReply` for an invalid or aborted one."""
    choice = parsed(_CompletionReply, body).choices[0]
    if choice.finish_reason not in ("stop", "length"):
        raise BrokenReply(f"the completion was aborted: {str(choice.finish_reason)[:40]!r}")
    return choice


def models_of(body: str) -> list[ServedModel]:
    """Return the models of a server. Raises :class:`BrokenReply`."""
    return parsed(_ModelList, body).data


def completion_of(
    choice: ReplyChoice, spec: SamplingSpec, body: dict[str, Any], language_model: LanguageModel
) -> Completion:
    """Return the server's completion; its tokens are decoded and cut here, by the same rule as in this process.

    Raises :class:`ConfigError` for a server that changes prompts or returns no tokens, or tokens that the model lacks.
    """
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != body["prompt"]:
        raise ConfigError(
            f"engine: the server read {len(choice.prompt_token_ids)} tokens where {len(body['prompt'])} were sent: it "
            "changes prompts"
        )
    ids = choice.token_ids
    if ids is None:
        raise ConfigError(
            "engine: the server returns no token_ids, from which the M-step trains; use vLLM 0.10.2 or newer"
        )
    if ids and max(ids) >= language_model.model.get_input_embeddings().weight.shape[0]:
        raise ConfigError(f"engine.model: the server wrote the token {max(ids)}, which the model here does not have")
    completion = finish_completion(ids, replace(spec, max_new_tokens=body["max_tokens"]), language_model)
    return replace(completion, finish_reason=FinishReason.STOP) if choice.finish_reason == "stop" else completion


def log_probs_of(choice: ReplyChoice, ids: list[int], num_targets: int) -> list[float]:
    """Return the log-probabilities of a prompt's last tokens.

    Raises :class:`ConfigError` where the server returns none, :class:`BrokenReply` where they do not fit the tokens.
    """
    by_position = choice.prompt_logprobs
    if by_position is None:
        raise ConfigError(
            "engine: the server returns no prompt_logprobs, which scores need; start vLLM without --disable-logprobs and "
            "without a proxy that drops fields"
        )
    if len(by_position) != len(ids):
        raise BrokenReply(f"log-probabilities of {len(by_position)} tokens, expected {len(ids)}")
    found = []
    for token, by_id in list(zip(ids, by_position, strict=True))[-num_targets:]:
        entry = (by_id or {}).get(str(token))
        if entry is None:
            raise BrokenReply(f"the log-probability of token {token} is missing")
        value = math.nan if entry.logprob is None else entry.logprob
        found.append(-math.inf if value <= _LOWEST else value)
    return found
