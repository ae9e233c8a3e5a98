"""What clients may ask for. A field that would change what an answer means and is not done here is refused by name.

Fields are OpenAI's. Null is as if a field were left out. Needs no web library and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from seal_lightning.adapt.serve.errors import ApiError, bad_field
from seal_lightning.core import ChatMessage, SamplingSpec
from seal_lightning.core.errors import shown

MOST_PROMPTS = 64
MOST_CHOICES = 16
"""Of one prompt, the field ``n``."""
MOST_MESSAGES = 256
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's."""
DEFAULT_CHAT_TOKENS = 512
"""OpenAI's is the rest of the context, which on a CPU keeps everybody waiting."""
_NO_MEANING = {
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
"""Fields that say nothing about the answer: left out, whatever they are."""
_OFF: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that are not done here, with the values that ask for nothing."""


def _unicode(text: str) -> str:
    """JSON may spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair, which is no character") from None
    return text


_Text = Annotated[str, AfterValidator(_unicode)]
_Stop = Annotated[_Text, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Left out: nothing is padded here."""


class _Sampled(_Strict):
    """What completions and chats have in common."""

    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: _StreamOptions | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> SamplingSpec:
        """How tokens are chosen, and how many."""
        return SamplingSpec(
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.num_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
        )

    @property
    def num_tokens(self) -> int:
        """The most tokens of an answer."""
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens


_Token = Annotated[int, Field(ge=0)]
_Prompt = _Text | Annotated[list[_Token], Field(min_length=1)]


class CompletionBody(_Sampled):
    """``POST /v1/completions``."""

    prompt: _Prompt | Annotated[list[_Prompt], Field(min_length=1, max_length=MOST_PROMPTS)]

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [item for item in self.prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in self.prompt if not isinstance(item, int)]


class _TextPart(_Strict):
    type: Literal["text"]
    text: _Text


class _Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[_TextPart], Field(min_length=1)]
    name: str | None = None

    def turn(self) -> ChatMessage:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        if self.role == "developer":  # OpenAI's newer word for it
            return ChatMessage(role="system", content=content)
        return ChatMessage(role=self.role, content=content)


class ChatBody(_Sampled):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[_Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def num_tokens(self) -> int:
        """The most tokens of an answer."""
        given = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return DEFAULT_CHAT_TOKENS if given is None else given

    def turns(self) -> tuple[ChatMessage, ...]:
        """The chat."""
        return tuple(message.turn() for message in self.messages)


BodyT = TypeVar("BodyT", bound=_Sampled)


def checked(kind: type[BodyT], body: Mapping[str, Any]) -> BodyT:
    """A request's body, if it asks for what is done here. Raises :class:`ApiError` that names the field."""
    asked = {name: value for name, value in body.items() if _is_asked(kind, name, value)}
    if isinstance(messages := asked.get("messages"), list):
        asked["messages"] = [_without_nothing(m) if isinstance(m, dict) else m for m in messages]
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        raise _refusal(error) from error


def _is_asked(kind: type[_Sampled], name: str, value: Any) -> bool:
    """Whether a field says anything. Raises :class:`ApiError` where what it says is not done here."""
    if value is None or name in _NO_MEANING:
        return False
    if name in kind.model_fields:
        return True
    if name not in _OFF:
        raise bad_field(
            name[:64], f"{shown(name, 64)} is no field that is known here; it is not ignored, as it may mean much"
        )
    if any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in _OFF[name]):
        return False
    done = " or ".join(["null", *map(repr, _OFF[name])])
    raise bad_field(name, f"{name}: {shown(value, 60)} is not supported here; allowed is {done}")


def _without_nothing(message: dict[str, Any]) -> dict[str, Any]:
    """An answer given back to continue a chat has fields that say nothing (``refusal: null``, ``tool_calls: []``)."""
    return {name: value for name, value in message.items() if value not in (None, [])}


def _refusal(error: ValidationError) -> ApiError:
    """Of several errors the one that lies deepest: of a field of several types, that of the type that was meant."""
    first = max(error.errors(include_url=False), key=lambda e: len(e["loc"]))
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
    return bad_field(field, f"{field or 'the body'}: {first['msg']}")
