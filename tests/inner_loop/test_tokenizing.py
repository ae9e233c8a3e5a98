"""Training sequences as tokens: a chat's ids are those of the prompt that it begins with, and its mask is exact."""

from __future__ import annotations

from typing import Literal

import pytest
from fakes import END, MAX_LENGTH

from seal_lightning.core import ChatMessage, Segment, TrainingSequence
from seal_lightning.core.errors import DataError, ModelError
from seal_lightning.inner_loop.tokenizing import tokenize
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained

Role = Literal["system", "user", "assistant"]
GRID, OTHER = "012\n345", "9 9\n0 1"
CHATS: dict[str, list[tuple[Role, str]]] = {
    "one": [("user", GRID), ("assistant", OTHER)],
    "system": [("system", "Be short."), ("user", GRID), ("assistant", OTHER)],
    "turns": [("user", GRID), ("assistant", OTHER), ("user", " 1\n"), ("assistant", GRID)],
    "all": [("system", GRID), ("user", "x"), ("assistant", "\n"), ("user", GRID), ("assistant", "  0\n\n")],
}
CHATML = (
    "{% for message in messages %}{{ message.role }}\n{{ message.content | trim }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)


def chat(turns: list[tuple[Role, str]], trained: Literal["all", "answers", "last"]) -> TrainingSequence:
    segments = [
        Segment(
            text=text,
            role=role,
            trained=trained == "all"
            or (trained == "answers" and role == "assistant")
            or (trained == "last" and i == len(turns) - 1),
        )
        for i, (role, text) in enumerate(turns)
    ]
    return TrainingSequence(segments=tuple(segments))


def messages(turns: list[tuple[Role, str]]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=role, content=text) for role, text in turns)


def check_begins_as_its_prompt(language_model: LanguageModel) -> None:
    """Before the last answer the prompt's ids, behind it the end token, and trained is what it should be."""
    for turns in CHATS.values():
        row = tokenize(chat(turns, "last"), language_model)
        prompt, answer = language_model.encode_prompt(messages(turns[:-1])), row.token_ids
        assert list(answer[: len(prompt)]) == prompt
        assert answer[-1] in language_model.eos_ids
        assert list(row.trained) == [False] * len(prompt) + [True] * (len(answer) - len(prompt))
        content = list(answer[len(prompt) : -1])
        assert content in (language_model.encode_text(turns[-1][1]), language_model.encode_text(turns[-1][1].strip()))
        assert not any(token in language_model.eos_ids for token in content)


def test_tokenize_starts_a_chat_with_its_prompt(tiny: LanguageModel) -> None:
    """The template of the tiny model writes a blank behind "assistant:" that a prompt ends before, and no end tokens."""
    check_begins_as_its_prompt(tiny)
    tiny.tokenizer.chat_template = CHATML
    check_begins_as_its_prompt(LanguageModel(tiny.model, tiny.tokenizer))


@pytest.mark.slow
def test_tokenize_starts_a_chat_of_the_embedded_model() -> None:
    """And its ids are those of the whole text, template and all, where no content begins with blanks."""
    embedded = Pretrained().load()
    check_begins_as_its_prompt(embedded)
    for turns in (CHATS["one"], CHATS["system"], CHATS["turns"][:2]):
        plain = [{"role": role, "content": text} for role, text in turns]
        whole = str(embedded.tokenizer.apply_chat_template(plain, tokenize=False))
        row = tokenize(chat(turns, "all"), embedded)
        assert [*row.token_ids, *embedded.encode_text("\n")] == embedded._ids(whole, add_special_tokens=False)
        assert embedded.tokenizer.decode(row.token_ids).count("You are a helpful AI assistant") == (
            0 if turns[0][0] == "system" else 1
        )


def test_tokenize_masks_a_chat(tiny: LanguageModel) -> None:
    """Contents by their segments, an answer's end token with it, the rest of the template where all is trained."""
    tiny.tokenizer.chat_template = CHATML
    model = LanguageModel(tiny.model, tiny.tokenizer)
    turns: list[tuple[Role, str]] = [("user", "0"), ("assistant", "1"), ("user", "2"), ("assistant", "3")]
    user, assistant = model.encode_text("user\n"), model.encode_text("assistant\n")
    line, end = model.encode_text("\n"), model.eos_ids[0]
    between, before = [end, *line], [*line, *user]
    assert model._ids(f"{END}\nuser\n", add_special_tokens=False) == [end, *before]

    def mask(sequence: TrainingSequence) -> list[bool]:
        return list(tokenize(sequence, model).trained)

    opening, inner = len(user), len(between) + len(assistant)
    answers = [False] * (opening + 1 + inner) + [True, True] + [False] * (len(before) + 1 + inner) + [True, True]
    assert mask(chat(turns, "answers")) == answers
    last = [False] * (len(answers) - 2) + [True, True]
    assert mask(chat(turns, "last")) == last
    assert mask(chat(turns, "all")) == [False] + [True] * (len(answers) - 1)
    users = [Segment(text=text, role=role, trained=role == "user") for role, text in turns]
    found = mask(TrainingSequence(segments=tuple(users)))
    assert [i for i, t in enumerate(found) if t] == [opening, opening + 1 + inner + 2 + len(before)]


def test_tokenize_keeps_the_template_after_a_question(tiny: LanguageModel) -> None:
    turns: list[tuple[Role, str]] = [("user", "0"), ("assistant", "1"), ("user", "2")]
    row = tokenize(chat(turns, "all"), tiny)
    assert tiny.decode(list(row.token_ids)) == "user: 0\nassistant: 1\nuser: 2\n"
    assert list(row.trained) == [False] + [True] * (len(row.token_ids) - 1)


def test_tokenize_accepts_an_answer_alone(tiny: LanguageModel) -> None:
    row = tokenize(chat([("assistant", GRID)], "all"), tiny)
    assert tiny.tokenizer.decode(row.token_ids) == f"assistant: {GRID}{END}"


def test_tokenize_adds_begin_tokens_to_texts_only(tiny: LanguageModel) -> None:
    tiny.__dict__["bos_ids"] = [1]
    text = TrainingSequence(segments=(Segment(text="ab", trained=False), Segment(text="cd")))
    row = tokenize(text, tiny)
    first, second = tiny.encode_text("ab"), tiny.encode_text("cd")
    assert list(row.token_ids) == [1, *first, *second]
    assert list(row.trained) == [False] * (1 + len(first)) + [True] * len(second)
    assert tokenize(chat(CHATS["one"], "all"), tiny).token_ids[0] != 1


def test_tokenize_truncates_to_the_context(tiny: LanguageModel) -> None:
    row = tokenize(chat([("user", "0 " * MAX_LENGTH), ("assistant", "1")], "all"), tiny)
    assert row.truncated
    assert len(row.token_ids) == len(row.trained) == MAX_LENGTH


def test_tokenize_refuses_mixed_roles(tiny: LanguageModel) -> None:
    for segments in (
        (Segment(text="a", role="user"), Segment(text="b")),
        (Segment(text="b"), Segment(text="a", role="user")),
    ):
        with pytest.raises(DataError, match="one without: 'b'"):
            tokenize(TrainingSequence(segments=segments), tiny)


def test_tokenize_needs_a_chat_template(tiny: LanguageModel) -> None:
    tiny.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        tokenize(chat(CHATS["one"], "all"), tiny)


def test_encode_text_caches_repeated_texts(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    ids = tiny._ids
    monkeypatch.setattr(tiny, "_ids", lambda text, **options: seen.append(text) or ids(text, **options))
    rows = [tokenize(chat(CHATS["turns"], "last"), tiny) for _ in range(5)]
    assert len(set(rows)) == 1
    assert seen.count(GRID) == 1
    tiny.encode_text(GRID).append(0)
    assert 0 not in tiny.encode_text(GRID), "a caller's changes stay with the caller"
