"""What an OpenAI-compatible server sends back: validated, never trusted, and an option only where it is plainly one."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seal_lightning.generation.endpoints import first_problem

MAX_CONTENT = 2_000
"""Characters; a longer reply is no option, whatever it says."""
_MAX_TOKENS = 10**9
_NOT_WHOLE = ("length", "content_filter", "tool_calls", "function_call")
"""Why a reply may end before its end; servers have several words for its end."""
_QUOTES = "\"'`*"

_Tokens = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]


class BrokenBody(Exception):
    """A body that is no chat completion: half of one, an error page, anything."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Message(_Part):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Part):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Part):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens


class Completion(_Part):
    """Of a chat completion, what is used."""

    choices: list[_Choice]
    usage: _Usage | None = None


def completion(body: bytes) -> Completion:
    """A body as a completion. Raises :class:`BrokenBody`."""
    try:
        return Completion.model_validate_json(body)
    except ValidationError as error:
        raise BrokenBody(first_problem(error)) from error


def decision(reply: Completion, options: tuple[str, ...]) -> tuple[str | None, str]:
    """The option that a reply takes, or None and why there is none."""
    if not reply.choices:
        return None, "reply without a choice"
    choice = reply.choices[0]
    if choice.message.refusal:
        return None, "the judge refused"
    if choice.finish_reason in _NOT_WHOLE:
        return None, f"reply cut short: {choice.finish_reason[:40]!r}"
    if not choice.message.content:
        return None, "empty reply"
    option = option_in(choice.message.content, options)
    return option, "" if option is not None else f"reply is no option: {choice.message.content[:60]!r}"


def option_in(content: str, options: tuple[str, ...]) -> str | None:
    """The option that a text is: ``{"option": …}``, or the option alone in any case, maybe quoted or with a full stop."""
    text = content.strip()
    if len(text) > MAX_CONTENT:
        return None
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            return None
        # A key that stands twice could mean either.
        text = pairs[0][1] if len(pairs) == 1 and pairs[0][0] == "option" else ""
        return text if isinstance(text, str) and text in options else None
    bare = text.strip(_QUOTES).removesuffix(".").strip(_QUOTES).casefold()
    found = [option for option in options if option.casefold() == bare]
    return found[0] if len(found) == 1 else None


def option_schema(options: tuple[str, ...]) -> dict[str, object]:
    """The JSON schema of ``{"option": …}``, as ``response_format`` takes it."""
    schema = {
        "type": "object",
        "properties": {"option": {"type": "string", "enum": list(options)}},
        "required": ["option"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "decision", "strict": True, "schema": schema}}
