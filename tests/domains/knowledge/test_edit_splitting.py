"""How edits fall into sequences, format by format."""

import random
import time

import pytest

from seal_lightning.core.errors import MalformedEdit
from seal_lightning.domains.knowledge import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    NoInstruction,
    Rewrites,
    SelfQA,
)

FORMATS = [Implications, ImplicationsLong, ImplicationsVeryLong, Rewrites, SelfQA, ChainOfThought, NoInstruction]

LINES = {
    "lines": ("1. a\n2. b", ["1. a", "2. b"]),
    "blank lines are dropped": ("\n\n a \n\n \t\nb\n", ["a", "b"]),
    "carriage returns": ("a\r\nb\rc", ["a", "b", "c"]),
    "other line ends stay": ("a\u2028b\x0cc", ["a\u2028b\x0cc"]),
    "lines of dashes": ("a\n---\nb\n  -----  \nc", ["a", "b", "c"]),
    "two dashes are text": ("a\n--\nb", ["a", "--", "b"]),
    "dashes in a line are text": ("a --- b", ["a --- b"]),
    "chatty opening": ("Sure, here it is:\n1. a\n2. b", ["1. a", "2. b"]),
    "chatty opening, blank line": ("Sure:\n\n\n1. a\n2. b", ["1. a", "2. b"]),
    "chatty opening, dashes": ("**Implications**\n---\n1) a", ["1) a"]),
    "chatty opening alone": ("Sure, here it is:", ["Sure, here it is:"]),
    "two lines before 1. are content": ("x\ny\n1. a", ["x", "y", "1. a"]),
    "a line before a dash list is content": ("x\n- a\n- b", ["x", "- a", "- b"]),
    "every item numbered 1.": ("1. a\n1. b", ["1. a", "1. b"]),
    "a decimal is no list": ("Facts\n1.5 million live there", ["Facts", "1.5 million live there"]),
    "indented items": ("Sure:\n  1. a\n  2. b", ["1. a", "2. b"]),
    "a later list restarts": ("1. a\n2. b\nSources\n1. c", ["1. a", "2. b", "Sources", "1. c"]),
    "nul and lone surrogates": ("a\0b\ud800c\udfffd\n\0\n\ud83d", ["abcd"]),
    "a real surrogate pair is one character": ("😀 a", ["😀 a"]),
    "empty": ("", []),
    "blank": (" \n\t\n---\n", []),
}


@pytest.mark.parametrize("prompt_format", [Implications(), ImplicationsLong(), ImplicationsVeryLong(), NoInstruction()])
@pytest.mark.parametrize(("text", "expected"), LINES.values(), ids=LINES)
def test_lines(prompt_format, text, expected):
    assert prompt_format.split(text) == expected


REWRITES = {
    "dashes": ("a\nb\n---\nc\n\nd", ["a\nb", "c\n\nd"]),
    "paragraphs": ("a\nb\n\nc\n \nd", ["a\nb", "c", "d"]),
    "numbered": ("1. a\nmore\n2. b", ["1. a\nmore", "2. b"]),
    "chatty opening": ("Here they are:\n\n1. a\n\n2. b", ["1. a", "2. b"]),
    "dashes at the ends": ("---\na\n---", ["a"]),
    "empty": ("---\n---", []),
}


@pytest.mark.parametrize(("text", "expected"), REWRITES.values(), ids=REWRITES)
def test_rewrites(text, expected):
    assert Rewrites().split(text) == expected


SELF_QA = {
    "pairs": ("Question 1: a?\nAnswer: b\n\nQuestion 2: c?\nAnswer: d", 2),
    "one line each": ("Question 1: a? Answer: b\nQuestion 2: c? Answer: d", 2),
    "dashes between": ("Question 1: a?\nAnswer: b\n---\nQuestion 2: c?\nAnswer: d", 2),
    "markdown": ("**Question 1:** a?\n**Answer:** b\n### question 2 : c?\nAnswer: d", 2),
    "numbered": ("1. Question: a?\nAnswer: b\n2. Question: c?\nAnswer: d", 2),
    "long answer": ("Question 1: a?\nAnswer: b\n\nmore b\nQuestion 2: c?\nAnswer: d", 2),
}


@pytest.mark.parametrize(("text", "count"), SELF_QA.values(), ids=SELF_QA)
@pytest.mark.parametrize("opening", ["", "Here are questions:\n\n"])
def test_self_qa(text, count, opening):
    pieces = SelfQA().split(opening + text)
    assert len(pieces) == count
    assert all("uestion" in piece for piece in pieces)
    assert [("b" in piece, "d" in piece) for piece in pieces] == [(True, False), (False, True)]


def test_self_qa_keeps_what_is_more_than_a_chatty_line():
    # a model whose prompt ends in "Question 1:" leaves the first one out
    assert SelfQA().split("a?\nAnswer: b\nQuestion 2: c?") == ["a?\nAnswer: b", "Question 2: c?"]
    assert SelfQA().split("no question here\nat all") == ["no question here\nat all"]
    assert SelfQA().split(" \n") == []


THOUGHTS = {
    "plain": "think\n1. not trained\n\nImplications:\n1. a\n2. b",
    "markdown": "think\n**Implications:**\n1. a\n2. b",
    "markdown heading without a colon": "think\n\n## Implications\n\n1. a\n2. b",
    "case": "think\nIMPLICATIONS:\n1. a\n2. b",
    "same line": "think\nImplications: 1. a\n2. b",
    "mentioned before": "its implications: many\nImplications:\n1. a\n2. b",
    "chatty after": "think\nImplications:\nSure:\n1. a\n2. b",
    "dashes between": "think\n---\nImplications:\n---\n1. a\n---\n2. b",
}


@pytest.mark.parametrize("text", THOUGHTS.values(), ids=THOUGHTS)
def test_chain_of_thought_trains_the_conclusion(text):
    assert ChainOfThought().split(text) == ["1. a", "2. b"]


@pytest.mark.parametrize("text", ["", "only thoughts", "the implications: many", "Implications are many"])
def test_chain_of_thought_without_conclusion_is_malformed(text):
    with pytest.raises(MalformedEdit) as caught:
        ChainOfThought().split(text)
    assert caught.value.kind == "no conclusion"


def test_chain_of_thought_with_another_heading():
    chosen = ChainOfThought(conclusion_heading="So (in short):")
    assert chosen.split("think\nSo (in short):\na") == ["a"]


@pytest.mark.parametrize("make", FORMATS)
def test_one_sequence_splits_at_dashes_only(make):
    body = "Sure:\n1. a\n\nQuestion 1: b?\n---\nc\nd"
    text = f"Implications:\n{body}" if make is ChainOfThought else body
    assert make(one_sequence=True).split(text) == ["Sure:\n1. a\n\nQuestion 1: b?", "c\nd"]


def test_strip_numbering():
    text = "1. a\n12) b\n- c\n* d\n• e\n1.5 f\n-g\n2024 h\n3.\n*\n1. - i"
    expected = ["a", "b", "c", "d", "e", "1.5 f", "-g", "2024 h", "- i"]
    assert Implications(strip_numbering=True).split(text) == expected
    assert Implications().split("1. a") == ["1. a"]
    assert Rewrites(strip_numbering=True).split("1.\na\n---\n2. \nb") == ["a", "b"]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize(
    "unit", [" ", "\t", "\n", "-", "*", "#", "1", "1. ", " \n", "Question ", "\n ", "Implications ", "---\n"]
)
def test_time_is_linear_in_the_text(make, unit):
    text = "Implications:\nx\n" + unit * (100_000 // len(unit)) + "x"
    start = time.perf_counter()
    make().split(text)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("make", FORMATS)
def test_any_text_is_split_or_malformed(make):
    random_ = random.Random(1)
    alphabet = [
        "1. ",
        "- ",
        "---",
        "\n",
        "\n\n",
        " ",
        "a",
        "Question 1:",
        "Implications:",
        "\0",
        "\ud800",
        "\r",
        "😀",
        "*",
        "#",
    ]
    for _ in range(500):
        text = "".join(random_.choices(alphabet, k=random_.randrange(12)))
        for settings in ({}, {"one_sequence": True}, {"strip_numbering": True}):
            try:
                pieces = make(**settings).split(text)
            except MalformedEdit:
                continue
            assert all(piece.strip() == piece and piece for piece in pieces)
            assert "\0" not in "".join(pieces)
            "".join(pieces).encode()
