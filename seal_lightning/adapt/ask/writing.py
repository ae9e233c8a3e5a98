"""One answer written token by token, and told as it grows. What is told adds up to the whole answer, to the character.

A row is written alone: neighbours in a batch would change the rounding of its sums, and with it now and then a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from seal_lightning.adapt.ask.growing_text import GrowingText
from seal_lightning.core import Completion, SamplingSpec
from seal_lightning.core.errors import DataError
from seal_lightning.generation.decoding import SeededSampling, finish_completion, preallocated_cache
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import LoraAdapter, applied


class Stopped(Exception):
    """An answer was given up before its end; what had been told of it stands."""


def unheard(text: str) -> None:
    """For who wants the whole answer only."""


def never() -> bool:
    """For an answer that nobody gives up."""
    return False


@torch.no_grad()
def write(
    language_model: LanguageModel,
    prompt_ids: Sequence[int],
    sampling: SamplingSpec,
    *,
    adapter: LoraAdapter | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = unheard,
    given_up: Callable[[], bool] = never,
) -> Completion:
    """Write one answer, as :class:`~seal_lightning.generation.TransformersEngine` writes it in a batch of one.

    Args:
        language_model: is not changed; without an adapter it answers as it would without this function.
        prompt_ids: at least one, fewer than the model's context.
        sampling: ``max_new_tokens`` is cut to what the context leaves.
        adapter: of the same model; None for the model itself.
        seed: of this answer's own draws, 0 to 2**63 − 1.
        tell: is given each new piece of the text; the pieces joined are the completion's text.
        given_up: is asked after every token.

    Raises :class:`Stopped` where ``given_up`` says so, :class:`DataError` for a prompt that leaves no room.
    """
    check_room(len(prompt_ids), language_model.max_length)
    room = language_model.max_length - len(prompt_ids)
    spec = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
    ids_1T = torch.tensor([list(prompt_ids)], device=language_model.device)
    listener = _Listener(language_model, spec, len(prompt_ids), tell, given_up)
    with nullcontext() if adapter is None else applied(language_model.model, adapter):
        language_model.model.generate(
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            past_key_values=preallocated_cache(language_model.model),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=spec.max_new_tokens, pad_token_id=language_model.pad_id
            ),
            logits_processor=LogitsProcessorList([SeededSampling([spec], [seed], len(prompt_ids))]),
            stopping_criteria=StoppingCriteriaList([listener]),
        )
    completion = finish_completion(listener.ids, spec, language_model)
    tell(listener.text.rest(completion.text))
    return completion


def check_room(num_tokens: int, context: int) -> None:
    """Raise :class:`DataError` for a prompt that leaves no room for an answer; the context's length is in tokens."""
    if num_tokens >= context:
        raise DataError(
            f"the prompt has {num_tokens} tokens; the model's context is {context} and must hold the answer too: at most "
            f"{context - 1} are allowed. Shorten it"
        )


class _Listener(StoppingCriteria):  # type: ignore[misc]
    """Hears every token, tells the text that is sure, and says when the answer is over."""

    def __init__(
        self,
        language_model: LanguageModel,
        spec: SamplingSpec,
        prompt_length: int,
        tell: Callable[[str], None],
        given_up: Callable[[], bool],
    ) -> None:
        self.ids: list[int] = []
        """Written so far."""
        self.text = GrowingText(spec.stop)
        self._language_model = language_model
        self._spec = spec
        self._prompt_length = prompt_length
        self._tell = tell
        self._given_up = given_up

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """[1] boolean: whether it is over."""
        if self._given_up():
            raise Stopped
        self.ids = input_ids[0, self._prompt_length :].tolist()
        over = self.ids[-1] in self._language_model.eos_ids or len(self.ids) >= self._spec.max_new_tokens
        if not over:
            piece = self.text.grown_to(self._language_model.decode(self.ids))
            if piece:
                self._tell(piece)
        return torch.full((1,), over or self.text.is_stopped, device=input_ids.device)
