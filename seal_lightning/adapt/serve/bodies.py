"""Bodies of requests, with OpenAI's fields; a field that would change the answer and is not supported is refused by name.

A null counts as a missing field. Needs neither a web library nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from seal_lightning.core import ChatMessage, SamplingSpec
from seal_lightning.core.errors import shown

MAX_PROMPTS = 64
MAX_CHOICES = 16
"""Per prompt, the field ``n``."""
MAX_MESSAGES = 256
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's."""
DEFAULT_CHAT_TOKENS = 512
"""OpenAI's is the rest of the context, which on a CPU keeps everybody waiting."""
_IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
"""Fields without a meaning for the answer."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}
"""Values of unsupported fields that request nothing."""

Prompt = str | list[int] | tuple[ChatMessage, ...]


def _unicode(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON may spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair, which is not a character") from None
    return text


_Text = Annotated[str, AfterValidator(_unicode)]
_Stop = Annotated[_Text, Field(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    off = _NEUTRAL.get(name, ())
    neutral = any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in off)
    return value is None or value == [] or name in _IGNORED or neutral


class _StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Accepted, without effect: nothing is padded here."""


class SampledBody(_Body):
    """The fields that completions and chats have in common."""

    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()

    @property
    def sampling(self) -> SamplingSpec:
        """Rules of sampling, and the number of tokens."""
        return SamplingSpec(
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.num_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
        )

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens of an answer."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


_Token = Annotated[int, Field(ge=0)]
_Prompt = _Text | Annotated[list[_Token], Field(min_length=1)]


class CompletionBody(SampledBody):
    """``POST /v1/completions``."""

    prompt: _Prompt | Annotated[list[_Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Each prompt, as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]


class _TextPart(_Body):
    type: Literal["text"]
    text: _Text


class _Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[_TextPart], Field(min_length=1)]
    name: str | None = None

    def turn(self) -> ChatMessage:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        # "developer" is OpenAI's newer word for "system".
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=content)


class ChatBody(SampledBody):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[_Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def num_tokens(self) -> int:
        """The largest number of tokens of an answer."""
        given = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return DEFAULT_CHAT_TOKENS if given is None else given

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The chat, as the only prompt."""
        return [tuple(message.turn() for message in self.messages)]


def refusal_of(errors: Sequence[Any]) -> tuple[str | None, str]:
    """Return the field and the message of pydantic's errors: the deepest one, which is of the type that was meant."""
    first = max(errors, key=lambda error: len(error["loc"]))
    is_unknown = first["type"] == "extra_forbidden"
    # Names that are not identifiers are pydantic's, of the alternatives of a type; an unknown field's is the client's.
    parts = [part for part in first["loc"][:-1] if isinstance(part, int) or part.isidentifier()]
    parts += [part for part in first["loc"][-1:] if is_unknown or isinstance(part, int) or part.isidentifier()]
    field = ".".join(str(part)[:64] for part in parts if part != "body")
    if is_unknown:
        return field, f"{field}: {shown(first['input'], 60)} is not supported here"
    return field or None, f"{field or 'the body must be a JSON object, sent as application/json'}: {first['msg']}"
