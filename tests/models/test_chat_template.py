"""What chat templates write around turns: kept apart from the contents, and refused where a turn would be lost."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import tiny_tokenizer

from seal_lightning.core.errors import ModelError
from seal_lightning.models.chat_template import ChatTemplate

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|system|>\nYou are kind.<|end|>\n{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>\n{{ CONTENT }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ROLES = ("user", "assistant", "user")


def frames_of(template: str | None) -> ChatTemplate:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer)


def written(frames: ChatTemplate, roles: tuple[str, ...], contents: tuple[str, ...], answer_next: bool) -> str:
    frame = frames.frame(roles, answer_next=answer_next)
    pieces = [frame.content(i, content) + frame.texts[i + 1] for i, content in enumerate(contents)]
    return frame.texts[0] + "".join(pieces)


@pytest.mark.parametrize(
    "content",
    [
        "message.content",
        "message.content | trim",
        "message['content'].strip()",
        "message.content.lstrip()",
        "message.content.rstrip()",
        "message.content.strip('\\n')",
        "message.content.lstrip('\\n')",
        "message.content.rstrip('\\n')",
        "(message.content | trim if message.role == 'assistant' else message.content)",
    ],
)
@pytest.mark.parametrize("answer_next", [False, True])
def test_chat_template_frames_equal_rendered_chat(content: str, answer_next: bool) -> None:
    frames = frames_of(CHATML.replace("CONTENT", content))
    for turns in (
        (("user", "012\n345"),),
        (("system", " Be short.\n"), ("user", "\n\n  012\n345 \n\n")),
        (("user", "\n "), ("assistant", "\n a \n\n"), ("user", "")),
        tuple((role, f" {i}\n") for i, role in enumerate(ROLES * 4)),
    ):
        roles, contents = zip(*turns, strict=True)
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = frames.tokenizer.apply_chat_template(messages, add_generation_prompt=answer_next, tokenize=False)
        assert written(frames, roles, contents, answer_next) == expected


def test_chat_template_renders_each_pattern_once() -> None:
    """Twice, to be exact: with contents that a template might strip, and with others."""
    frames, calls = frames_of(CHATML.replace("CONTENT", "message.content")), []
    render = frames.tokenizer.apply_chat_template
    frames.tokenizer.apply_chat_template = lambda *args, **kwargs: calls.append(1) or render(*args, **kwargs)
    for _ in range(3):
        frames.frame(ROLES, answer_next=True)
    assert len(calls) == 2
    frames.frame(ROLES, answer_next=False)
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}", "drops.*assistant"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "repeats"),
        ("{% for m in messages | reverse %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "moves"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "drops"),
        ("{% for m in messages %}{{ m.content | replace('\n', ' ') }};{% endfor %}", "rewrites"),
        ("{{ raise_exception('only users') }}", "rejects a chat of user, assistant, user: only users"),
        (None, "no chat template"),
    ],
)
def test_chat_template_rejects_dropped_turns(template: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        frames_of(template).frame(ROLES, answer_next=True)


def test_chat_template_has_a_fixed_date() -> None:
    """Llama 3's does, where it is given none."""
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    frame = frames_of(dated + "{{ date_string }}\n" + CHATML.replace("CONTENT", "message.content")).frame(
        ("user",), answer_next=True
    )
    assert frame.texts[0].startswith("26 Jul 2024\n")
