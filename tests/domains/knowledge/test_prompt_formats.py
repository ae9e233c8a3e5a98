"""Prompts: their shape, their worked examples, and the bounds of their settings."""

import pytest

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.domains.knowledge import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    NoInstruction,
    PromptFormat,
    Rewrites,
    SelfQA,
    load_examples,
)

INSTRUCTED = [Implications, ImplicationsLong, ImplicationsVeryLong, Rewrites, SelfQA, ChainOfThought]


@pytest.mark.parametrize("make", INSTRUCTED)
def test_base_prompt_is_instruction_passage_heading(make, passage):
    chosen = make()
    prompt = chosen.base_prompt(passage)
    assert prompt == (f"{chosen.instruction}\n\nPassage:\n{passage.title}\n{passage.context}\n\n{chosen.heading}\n")
    assert chosen.stops("base") == ()


def test_no_instruction_is_title_and_passage(passage):
    assert NoInstruction().base_prompt(passage) == f"{passage.title}\n{passage.context}\n"
    (turn,) = NoInstruction().chat_prompt(passage)
    assert (turn.role, turn.content) == ("user", f"{passage.title}\n{passage.context}")


@pytest.mark.parametrize("make", INSTRUCTED)
def test_chat_prompt_is_one_user_turn_without_heading(make, passage):
    chosen = make()
    (turn,) = chosen.chat_prompt(passage)
    assert turn.role == "user"
    assert turn.content == f"{chosen.instruction}\n\nPassage:\n{passage.title}\n{passage.context}"


@pytest.mark.parametrize("make", INSTRUCTED)
@pytest.mark.parametrize("count", [1, 2])
def test_worked_examples_in_a_base_prompt(make, count, passage, examples_path):
    examples = load_examples(examples_path)
    chosen = make(num_examples=count, stop=("\n\n\n",))
    prompt = chosen.base_prompt(passage, examples)
    (end,) = [stop for stop in chosen.stops("base") if stop != "\n\n\n"]
    assert prompt.count(chosen.instruction) == 1
    shots = prompt.split(f"\n{end}\n\n")
    assert len(shots) == count + 1
    assert shots[-1].startswith("Passage:\n")
    assert prompt.endswith(f"{passage.context}\n\n{chosen.heading}\n")
    for example, shot in zip(examples, shots[:-1], strict=False):
        assert shot.endswith(f"{example.context}\n\n{chosen.heading}\n{chosen.demonstration(example)}")
        assert end not in chosen.demonstration(example)


@pytest.mark.parametrize("make", INSTRUCTED)
def test_worked_examples_in_a_chat_are_earlier_turns(make, passage, examples_path):
    examples = load_examples(examples_path)
    chosen = make(num_examples=2)
    turns = chosen.chat_prompt(passage, examples)
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[1].content == chosen.demonstration(examples[0])
    assert passage.context in turns[-1].content
    assert chosen.stops("chat") == ()


@pytest.mark.parametrize("make", INSTRUCTED)
def test_a_demonstration_splits_into_its_parts(make, examples_path):
    counts = {Rewrites: (2, 1), SelfQA: (2, 1)}.get(make, (2, 1))
    chosen = make()
    assert tuple(len(chosen.split(chosen.demonstration(e))) for e in load_examples(examples_path)) == counts


def test_all_wording_can_be_replaced(passage):
    chosen = Implications(instruction="Do.", heading="So:", passage_heading="Text:")
    assert chosen.base_prompt(passage) == f"Do.\n\nText:\n{passage.title}\n{passage.context}\n\nSo:\n"


def test_a_format_is_one_small_class(passage):
    class Haiku(PromptFormat):
        def demonstration(self, example):
            return example.reasoning

    assert Haiku(instruction="Write.", heading="Haiku:").base_prompt(passage).endswith("\n\nHaiku:\n")


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Implications, {"num_examples": -1}, "num_examples is -1; allowed is 0 or more"),
        (NoInstruction, {"num_examples": 1}, "num_examples is 1; this format has none"),
        (Rewrites, {"example_separator": "---"}, "must not be blank or all dashes"),
        (Rewrites, {"example_separator": " "}, "must not be blank or all dashes"),
        (SelfQA, {"stop": ("x", "")}, "must not be empty"),
        (ChainOfThought, {"conclusion_heading": " :"}, "must have a word"),
    ],
)
def test_bounds(make, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_no_instruction_has_no_demonstration(examples_path):
    with pytest.raises(ConfigError, match="no worked examples"):
        NoInstruction().demonstration(load_examples(examples_path)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "at least one worked example; it is an object with 0 keys"),
        ("[]", "at least one worked example; it is a list of 0"),
        ("[3]", "record 0: must be a JSON object; it is 3"),
        ('[{"title": "t"}]', "record 0: title 't', field 'context' is missing"),
        (
            '[{"title":"t","context":"c","implications":[],"rewrites":["r"],"self_qa":[],"reasoning":"x"}]',
            "field 'implications': List should have at least 1 item",
        ),
    ],
)
def test_bad_worked_examples(content, message, tmp_path):
    path = tmp_path / "examples.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_examples(path)


def test_missing_worked_examples(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        load_examples(tmp_path / "examples.json")
