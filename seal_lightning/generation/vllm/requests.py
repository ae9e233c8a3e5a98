"""What a vLLM server is asked, and a completion made of what it wrote."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import Any

from seal_lightning.core import Completion, FinishReason, GenerationRequest, SamplingSpec
from seal_lightning.core.errors import ConfigError
from seal_lightning.generation.endings import ended
from seal_lightning.generation.vllm.reply import ReplyChoice
from seal_lightning.models.language_model import LanguageModel

_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Said, because a server takes what it is not told from the model's ``generation_config.json``."""

_log = logging.getLogger(__name__)


def generation_body(request: GenerationRequest, language_model: LanguageModel, max_length: int) -> dict[str, Any]:
    """The body of a request for text, but for its ``model``.

    Raises :class:`ConfigError` where the server's context is too short for the prompt.
    """
    ids = language_model.encode_prompt(request.prompt)
    room = max_length - len(ids)
    if room < 1:
        raise ConfigError(
            f"engine: a prompt of {len(ids)} tokens leaves no room in the server's context of {max_length}: start it with a "
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
    """The body of a request for the log-probabilities of these tokens; one token is written, since none cannot be."""
    return {"prompt": ids, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "prompt_logprobs": 1, **_NEUTRAL}


def completion_of(
    choice: ReplyChoice, spec: SamplingSpec, body: dict[str, Any], language_model: LanguageModel
) -> Completion:
    """What the server wrote. Its text is decoded here from its tokens, so it ends as one written in this process.

    A server that does not tell tokens (vLLM before 0.10.2) is believed in its text, which is tokenised: those may be other
    tokens than were sampled. Raises :class:`ConfigError` for tokens that the model does not have.
    """
    if choice.prompt_token_ids is not None and choice.prompt_token_ids != body["prompt"]:
        raise ConfigError(
            f"engine: the server read {len(choice.prompt_token_ids)} tokens where {len(body['prompt'])} were sent: it "
            "changes prompts"
        )
    if choice.token_ids is None:
        _warn_of_texts()
        ids = language_model.encode_text(choice.text)
    else:
        ids = choice.token_ids
    if ids and max(ids) >= language_model.model.get_input_embeddings().weight.shape[0]:
        raise ConfigError(f"engine.model: the server wrote the token {max(ids)}, which the model here does not have")
    spec = replace(spec, max_new_tokens=body["max_tokens"])
    completion = ended(ids, spec, language_model)
    if choice.finish_reason != "stop" or completion.finish_reason is FinishReason.STOP:
        return completion
    return _with_end(choice, ids, spec, language_model)


def _with_end(choice: ReplyChoice, ids: list[int], spec: SamplingSpec, language_model: LanguageModel) -> Completion:
    """A completion that ended where its tokens do not show it: what ended it is left out of them."""
    if isinstance(choice.stop_reason, str):
        ids = [*ids, *language_model.encode_text(choice.stop_reason)]
    elif not spec.stop or choice.tells_stop_reason:
        ids = [*ids, choice.stop_reason if choice.stop_reason is not None else language_model.eos_ids[0]]
    completion = ended(ids, replace(spec, max_new_tokens=max(len(ids), spec.max_new_tokens)), language_model)
    return replace(completion, finish_reason=FinishReason.STOP)


@cache
def _warn_of_texts() -> None:
    _log.warning(
        "the server does not tell which tokens it wrote (vLLM does since 0.10.2): its texts are tokenised, and the M-step "
        "may train on other tokens than were sampled"
    )
