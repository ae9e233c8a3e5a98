"""Bodies of requests: OpenAI's fields, unsupported ones refused by name, none ignored silently."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seal_lightning.adapt.serve.bodies import _IGNORED, _NEUTRAL, ChatBody, CompletionBody, refusal_of
from seal_lightning.core import ChatMessage, SamplingSpec

TEXT = {"model": "m", "prompt": "The stone is"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def checked(kind: type[Any], body: dict[str, Any]) -> Any:
    return kind.model_validate(body)


def refused(kind: type[Any], body: dict[str, Any]) -> tuple[str, str]:
    """The field at fault and the message."""
    with pytest.raises(ValidationError) as caught:
        checked(kind, body)
    field, message = refusal_of(caught.value.errors())
    assert field is not None
    message.encode()
    return field, message


def test_the_defaults_are_openai_s() -> None:
    assert checked(CompletionBody, TEXT).sampling == SamplingSpec(temperature=1.0, top_p=1.0, max_new_tokens=16)
    assert checked(ChatBody, CHAT).sampling.max_new_tokens == 512
    assert not checked(ChatBody, CHAT).stream
    assert not checked(ChatBody, CHAT).stream_options.include_usage


def test_every_field_counts() -> None:
    said = {"temperature": 0, "top_p": 0.5, "stop": ["a", "b"], "seed": -7, "n": 3, "stream": True}
    body = checked(ChatBody, CHAT | said | {"stream_options": {"include_usage": True}, "max_completion_tokens": 5})
    assert body.sampling == SamplingSpec(temperature=0, top_p=0.5, max_new_tokens=5, stop=("a", "b"))
    assert (body.seed, body.n, body.stream, body.stream_options.include_usage) == (-7, 3, True, True)
    assert checked(ChatBody, CHAT | {"max_tokens": 9}).num_tokens == 9
    assert checked(CompletionBody, TEXT | {"max_tokens": 9, "stop": "x"}).sampling.stop == ("x",)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_many(prompt: Any, prompts: list[Any]) -> None:
    assert checked(CompletionBody, TEXT | {"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize(
    "prompt", [[], [[]], [1, "a"], [-1], 3, {"a": 1}, [[1.5]], ["a"] * 65, "\ud800", [True], [[1], "\udc00"]]
)
def test_invalid_prompts_are_refused(prompt: Any) -> None:
    assert refused(CompletionBody, TEXT | {"prompt": prompt})[0].startswith("prompt")


def test_messages_become_turns() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": [], "audio": None},
        {"role": "user", "content": ""},
    ]
    assert checked(ChatBody, CHAT | {"messages": messages}).prompts == [
        (
            ChatMessage(role="system", content="Be short."),
            ChatMessage(role="user", content="ab"),
            ChatMessage(role="assistant", content="c"),
            ChatMessage(role="user", content=""),
        )
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages.0"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": "\ud800"}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages.0.content"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls"),
        ("Hi", "messages.0"),
    ],
)
def test_invalid_messages_are_refused(message: Any, param: str) -> None:
    assert refused(ChatBody, CHAT | {"messages": [message]})[0].startswith(param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("temperature", "1"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("stop", ""),
        ("stop", [""]),
        ("stop", list("abcde")),
        ("stop", "\ud800"),
        ("seed", 2**63),
        ("n", 0),
        ("n", 17),
        ("stream", "yes"),
        ("stream_options", {"x": 1}),
        ("stream_options", 3),
        ("model", 3),
    ],
)
def test_values_out_of_bounds_name_their_field(field: str, value: Any) -> None:
    for kind, body in ((CompletionBody, TEXT), (ChatBody, CHAT)):
        param, message = refused(kind, body | {field: value})
        assert param.startswith(field)
        assert field in message


@pytest.mark.parametrize("field", ["model", "prompt"])
def test_a_missing_field_is_named(field: str) -> None:
    assert refused(CompletionBody, {k: v for k, v in TEXT.items() if k != field})[0] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_schema"}),
        ("logit_bias", {"5": 1}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("logprobs", True),
        ("logprobs", 0),
        ("top_logprobs", 3),
        ("echo", True),
        ("suffix", "x"),
        ("best_of", 2),
        ("top_k", 5),
        ("max_completion_token", 5),
    ],
)
def test_unsupported_fields_are_refused_by_name(field: str, value: Any) -> None:
    param, message = refused(CompletionBody, TEXT | {field: value})
    assert param == field
    assert param in message


def test_neutral_fields_pass() -> None:
    plain = checked(ChatBody, CHAT)
    for field, offs in _NEUTRAL.items():
        for off in (None, *offs):
            assert checked(ChatBody, CHAT | {field: off}) == plain
    for field in _IGNORED:
        assert checked(ChatBody, CHAT | {field: {"any": "thing"}}) == plain
    assert (
        checked(ChatBody, CHAT | dict.fromkeys(("temperature", "stop", "seed", "n", "stream", "max_tokens"))) == plain
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    [*CompletionBody.model_fields, *ChatBody.model_fields, *_NEUTRAL, "role", "content"]
) | st.text(max_size=5)


@given(st.dictionaries(_FIELDS, _JSON, max_size=4), st.sampled_from([(CompletionBody, TEXT), (ChatBody, CHAT)]))
def test_any_object_is_accepted_or_refused(fields: dict[str, Any], form: tuple[type[Any], dict[str, Any]]) -> None:
    kind, whole = form
    with suppress(ValidationError):
        assert checked(kind, whole | fields).sampling.max_new_tokens
