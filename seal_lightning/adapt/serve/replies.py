"""What clients get: OpenAI's objects for completions and for chats, whole and in chunks. Needs no web library."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from seal_lightning.core import Completion


class CompletionReply:
    """A reply to ``/v1/completions``."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, model: str) -> None:
        self.model = model
        """As it was asked for."""
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[Completion], usage: dict[str, int]) -> dict[str, Any]:
        """All answers, by index."""
        choices = [
            {"index": index, **self._whole(answer.text), "logprobs": None, "finish_reason": answer.finish_reason.value}
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "object": self.whole_object, "choices": choices, "usage": usage}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What stands before the first piece of an answer; None: nothing."""
        return None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with more of an answer."""
        return self._chunk(index, self._part(text), None)

    def end(self, index: int, finish_reason: str) -> dict[str, Any]:
        """A chunk that ends an answer."""
        return self._chunk(index, self._part(None), finish_reason)

    def used(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, where it is asked for: the numbers of tokens."""
        return {**self._head, "object": self.chunk_object, "choices": [], "usage": usage}

    def _whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _part(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def _chunk(self, index: int, part: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **part, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self.chunk_object, "choices": [choice]}


class ChatReply(CompletionReply):
    """A reply to ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any] | None:
        """Who speaks."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def _whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _part(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's count of tokens; an end token counts as written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def event(data: dict[str, Any] | str) -> bytes:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
