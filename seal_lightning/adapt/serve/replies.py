"""Replies in OpenAI's form: completions and chats, whole and in chunks, and errors. Needs no web library."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from seal_lightning.core import Completion


class ApiError(Exception):
    """A refused or failed request; the message holds no text of a prompt. ``param`` is the invalid field."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        super().__init__(message)


class Reply:
    """The reply to one request.

    Args:
        model: its name in the request.
        is_chat: whether it is of ``/v1/chat/completions``, else of ``/v1/completions``.
        prompt_tokens: of all prompts.
    """

    def __init__(self, model: str, *, is_chat: bool, prompt_tokens: int) -> None:
        self._is_chat = is_chat
        self._prompt_tokens = prompt_tokens
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """Return all answers, by index."""
        choices = []
        for index, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            content = {"message": message} if self._is_chat else {"text": answer.text}
            choices.append(_choice(index, content, answer.finish_reason.value))
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self._usage(answers)}

    def opening(self, index: int) -> bytes:
        """Return the event before the first piece of a chat's answer; empty for a completion."""
        return self._chunk([_choice(index, {"delta": {"role": "assistant", "content": ""}})]) if self._is_chat else b""

    def piece(self, index: int, text: str) -> bytes:
        """Return the event with more of an answer."""
        return self._chunk([_choice(index, {"delta": {"content": text}} if self._is_chat else {"text": text})])

    def end(self, index: int, answer: Completion) -> bytes:
        """Return the event that ends an answer."""
        content: dict[str, Any] = {"delta": {}} if self._is_chat else {"text": ""}
        return self._chunk([_choice(index, content, answer.finish_reason.value)])

    def used(self, answers: Sequence[Completion]) -> bytes:
        """Return the event with the numbers of tokens."""
        return self._chunk([], usage=self._usage(answers))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return event({**self._head, "object": kind, "choices": choices, **more})

    def _usage(self, answers: Sequence[Completion]) -> dict[str, int]:
        """Return OpenAI's numbers of tokens; an end token counts as written."""
        written = sum(len(answer.token_ids) for answer in answers)
        total = self._prompt_tokens + written
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": written, "total_tokens": total}


def _choice(index: int, content: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}


def event(data: dict[str, Any] | str) -> bytes:
    """Return a server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
