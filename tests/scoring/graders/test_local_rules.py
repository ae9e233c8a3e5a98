"""The local rules on invented answers: ``tests/golden/local_rules.json`` says what is correct."""

import json
from pathlib import Path

import pytest

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus
from seal_lightning.core.errors import ConfigError
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.graders.answer_words import alike, words

CASES = json.loads((Path(__file__).resolve().parents[2] / "golden/local_rules.json").read_text(encoding="utf-8"))


def verdict(question: str, gold: list[str], answer: str, **settings: float) -> Verdict:
    asked = AnsweredQuestion(question_id="q7", question=question, gold_answers=tuple(gold), answer=answer)
    (found,) = LocalRules(**settings).grade([asked])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_golden_verdict(case):
    found = verdict(case["question"], case["gold"], case["answer"])
    assert (found.status is VerdictStatus.CORRECT) == case["correct"], found.reason
    assert found.status is not VerdictStatus.UNSCORED
    assert found.question_id == "q7"
    assert 0 < len(found.reason) <= 120


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        (["flax"], "It is flax.", "recall 1.00"),
        (["Szekeshovar"], "In Czekeshovar.", "fuzzy 0.9"),
        (["the will of the people"], "The will of all.", "F1 0.67"),
        (["May 1901"], "It was in May.", "lacks the numbers 1901"),
        (["flax"], "wool", "recall 0.00 < 0.6, fuzzy"),
        (["flax"], " ", "empty answer"),
        (["+"], "+", "equal as written"),
        (["+"], "minus", "no words"),
    ],
)
def test_reason_names_the_rule(gold, answer, reason):
    assert reason in verdict("What is it?", gold, answer).reason


@pytest.mark.parametrize("gold", [[], [""], ["", " \n"]])
@pytest.mark.parametrize("answer", ["flax", ""])
def test_question_without_gold_answer_is_unscored(gold, answer):
    found = verdict("What?", gold, answer)
    assert found.status is VerdictStatus.UNSCORED
    assert found.reason == "no gold answer"


def test_blank_gold_beside_a_real_one_is_ignored():
    assert verdict("What?", ["", "flax"], "Flax.").status is VerdictStatus.CORRECT
    assert verdict("What?", ["", "flax"], "Wool.").status is VerdictStatus.WRONG


def test_verdicts_keep_order():
    asked = [
        AnsweredQuestion(question_id=str(i), question="What?", gold_answers=("flax",), answer=answer)
        for i, answer in enumerate(["flax", "wool", "", "Flax!"])
    ]
    found = LocalRules().grade(asked)
    assert [v.question_id for v in found] == ["0", "1", "2", "3"]
    assert [v.status is VerdictStatus.CORRECT for v in found] == [True, False, False, True]
    assert list(LocalRules().grade([])) == []


STRANGE = ["\ud800", "\x00", "\u0301", "½ ⅷ ²", "٣", "𝟙𝟚", "🙂", "﷽" * 50, "ßİı", "a_b", "_", "1.2.3,4", "x" * 200_000]


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: ascii(text[:6]))
def test_strange_text_is_graded(text):
    assert verdict(text, [text], text).status is VerdictStatus.CORRECT
    assert verdict("What?", [text], "flax").status is VerdictStatus.WRONG
    assert verdict(text, ["flax"], text).status is VerdictStatus.WRONG


def test_only_the_first_characters_are_read():
    answer = "wool " * 10 + "flax"
    assert verdict("What?", ["flax"], answer).status is VerdictStatus.CORRECT
    assert verdict("What?", ["flax"], answer, max_chars=50).status is VerdictStatus.WRONG
    # "flax" is a content word only while the question's end, where it is asked about, is not read
    assert verdict("What goes with flax?", ["flax wool"], "dark wool").status is VerdictStatus.CORRECT
    assert verdict("What goes with flax?", ["flax wool"], "dark wool", max_chars=10).status is VerdictStatus.WRONG


@pytest.mark.parametrize(
    ("settings", "gold", "answer"),
    [
        ({"min_recall": 0.7}, ["flooding, debts and strikes"], "The owners gave up because of flooding and debts."),
        ({"min_fuzzy": 1.0}, ["Szekeshovar"], "The treaty was signed in Czekeshovar."),
        ({"min_f1": 0.7}, ["the will of the people"], "The will of all."),
    ],
)
def test_a_stricter_threshold_refuses(settings, gold, answer):
    question = "What is it?"
    assert verdict(question, gold, answer).status is VerdictStatus.CORRECT
    assert verdict(question, gold, answer, **settings).status is VerdictStatus.WRONG


@pytest.mark.parametrize("name", ["min_recall", "min_fuzzy", "min_f1"])
@pytest.mark.parametrize("value", [0, -1, 1.01, 75, float("nan")])
def test_threshold_out_of_bounds(name, value):
    with pytest.raises(ConfigError, match=name):
        LocalRules(**{name: value})


def test_max_chars_out_of_bounds():
    with pytest.raises(ConfigError, match="max_chars: 0"):
        LocalRules(max_chars=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Quick,  brown FOX's den!", ["quick", "brown", "foxs", "den"]),
        ("an a the", []),
        ("twenty-one, forty two, ninety and none", ["21", "42", "90", "and", "none"]),
        ("1,234,567 in 1990,1991 for $20.4", ["1234567", "in", "1990", "1991", "for", "20.4"]),
        ("the 1870s, 19th-century", ["1870", "s", "19", "th", "century"]),
        ("Éloïse", ["eloise"]),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("word", "other", "same"),
    [
        ("catholic", "catholicism", True),
        ("art", "art", True),
        ("art", "arts", False),  # too short to have a stem; the fuzzy measure sees it
        ("inter", "interdependence", False),
        ("100000", "100001", False),
        ("100000", "100000", True),
    ],
)
def test_alike_is_symmetric(word, other, same):
    assert alike(word, other) is same
    assert alike(other, word) is same
