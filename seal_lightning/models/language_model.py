"""A causal language model with its tokenizer, and the one tokenisation of prompts, chats and texts.

Prompt and target are tokenised separately and concatenated, so that loss masks and scored positions are known by
construction. The same holds for the turns of a chat and the template around them: a prompt, and a training sequence that
begins with it, get the same ids.

A text never contains control tokens: a document with ``<|im_end|>`` gets the ids of those characters. Control tokens come
only from the chat template and from the tokenizer's begin and end tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from seal_lightning.core import ChatMessage, Prompt
from seal_lightning.core.errors import DataError, ModelError, shown
from seal_lightning.models.chat_template import ChatTemplate
from seal_lightning.models.frozen_linear import freeze_linears
from seal_lightning.models.lora import LoraAdapter, merge
from seal_lightning.models.packed import PackedForward
from seal_lightning.models.quantization import keep_layout

# Texts whose ids are cached: a task's grids occur in hundreds of its sequences, its questions in every attempt.
_CACHED_TEXTS = 4096


class LanguageModel:
    """A transformers causal model and its tokenizer.

    The model is set to evaluation mode and its weights are frozen. Sampling defaults that came with it (a repetition penalty,
    for example) are removed, so that texts are sampled from the model's own distribution.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval().requires_grad_(False)
        freeze_linears(self.model)
        keep_layout(self.model)
        self.tokenizer = tokenizer
        self._frames = ChatTemplate(tokenizer)
        self._plain_ids = lru_cache(maxsize=_CACHED_TEXTS)(self._tokenized)
        self._frame_ids = lru_cache(maxsize=_CACHED_TEXTS)(self._tokenized_frame)
        self.merged: tuple[LoraAdapter, ...] | None = ()
        """LoRAs merged into the pretrained weights, oldest first; None: the weights have changed in other ways.

        An engine with another copy of the pretrained model needs them to reproduce this one.
        """
        self.original_generation_config = model.generation_config
        eos = self._end_ids(model, tokenizer)
        if not eos:
            raise ModelError("the model and its tokenizer name no end-of-sequence token: set tokenizer.eos_token")
        self.eos_ids: tuple[int, ...] = eos
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
        """Pads are masked everywhere, so a model without a pad token uses its end token."""
        model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=self.pad_id)

    @staticmethod
    def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        of_model = getattr(model.generation_config, "eos_token_id", None)
        ids = list(of_model) if isinstance(of_model, (list, tuple)) else [of_model]
        return tuple(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id] if i is not None))

    def merge(self, adapter: LoraAdapter) -> None:
        """Merge an adapter into the weights."""
        merge(self.model, adapter)
        if self.merged is not None:
            self.merged = (*self.merged, adapter)

    @property
    def device(self) -> torch.device:
        """Device of the model's weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def max_length(self) -> int:
        """Length of the model's context, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 30)

    @cached_property
    def packed(self) -> PackedForward:
        """Forward passes over packed rows; the first use checks the model and may raise :class:`ModelError`."""
        return PackedForward(self.model)

    @cached_property
    def bos_ids(self) -> list[int]:
        """Tokens that the tokenizer puts before a text (Llama's begin token; none for Qwen and SmolLM2)."""
        with_special = self._ids("a", add_special_tokens=True)
        plain = self._ids("a", add_special_tokens=False)
        for start in range(len(with_special) - len(plain) + 1):
            if with_special[start : start + len(plain)] == plain:
                return with_special[:start]
        return []

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text within a sequence: special tokens are neither added nor recognised.

        A special token's name is tokenised as ordinary characters. (Added tokens that the tokenizer does not declare special,
        such as runs of blanks, stay one token.)
        """
        return list(self._plain_ids(text))

    def encode_chat(self, turns: Sequence[ChatMessage], *, answer_next: bool) -> list[list[int]]:
        """Return the ids of a chat in 2 · turns + 1 pieces, alternating between the template and the turns' contents.

        With ``answer_next`` the last piece ends where an answer starts. Without it, and if the last turn is an answer, the
        pieces before its content equal ``encode_chat(turns[:-1], answer_next=True)``. Contents are stripped as the template
        strips them.

        Raises :class:`ModelError` as :meth:`ChatTemplate.frame`.
        """
        frame = self._frames.frame(tuple(turn.role for turn in turns), answer_next=answer_next)
        contents = [self.encode_text(frame.content(i, turn.content)) for i, turn in enumerate(turns)]
        if not answer_next and len(turns) > 1 and turns[-1].role == "assistant":
            before = self.encode_chat(turns[:-1], answer_next=True)
            return [*before, contents[-1], list(self._frame_ids(frame.texts[-1]))]
        pieces = [list(self._frame_ids(frame.texts[0]))]
        for content, text in zip(contents, frame.texts[1:], strict=True):
            pieces += [content, list(self._frame_ids(text))]
        return pieces

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt with its begin token; chat turns go through the chat template up to the answer's start.

        Raises :class:`ModelError` for chat turns on a tokenizer without a chat template, and for a prompt without tokens,
        after which nothing predicts the first token; :class:`DataError` for one that leaves no room in the context.
        """
        ids = self.prompt_ids(prompt)
        if len(ids) >= self.max_length:
            text = prompt if isinstance(prompt, str) else prompt[-1].content
            raise DataError(
                f"a prompt of {len(ids)} tokens leaves no room in the model's context of {self.max_length}: "
                f"{shown(text)}. Split the passage, use fewer worked examples, or remove the task"
            )
        return ids

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids as :meth:`encode_prompt`, for a prompt of any length."""
        if isinstance(prompt, str):
            ids = self.bos_ids + self.encode_text(prompt)
            if not ids:
                raise ModelError("the prompt is empty and the model's tokenizer adds no begin token: give it some text")
            return ids
        return [token for piece in self.encode_chat(prompt, answer_next=True) for token in piece]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def clear_text_cache(self) -> None:
        """Drop the cached ids of texts; for callers whose texts never repeat."""
        self._plain_ids.cache_clear()

    def _tokenized(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids(text, add_special_tokens=False, split_special_tokens=True))

    def _tokenized_frame(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids(text, add_special_tokens=False, split_special_tokens=False))

    def _ids(self, text: str, **options: bool) -> list[int]:
        encoded: Any = self.tokenizer(text, **options)
        return list(encoded["input_ids"])
