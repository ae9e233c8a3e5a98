"""The probe of general knowledge: what is shipped, as passages, and what its parser refuses."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.adapt.probe import NUM_CHOICES, PROBE_FILE, parse_probe, probe_passages, probe_questions
from seal_lightning.core.errors import DataError

GOOD = {"id": "sum", "question": "What is one plus one?", "choices": ["1", "2", "3", "4"], "answer": 1}


def test_what_is_shipped() -> None:
    questions = probe_questions()
    assert len(questions) == 48
    assert len({each.question for each in questions}) == 48
    assert Counter(each.answer for each in questions) == dict.fromkeys(range(NUM_CHOICES), 12)  # no place pays
    by_id = {each.question_id: each.gold for each in questions}
    assert by_id["capital-france"] == "Paris"
    assert by_id["difference-ten-four"] == "six"
    assert all(each.question.endswith("?") for each in questions)


def test_as_passages_of_one_question_each() -> None:
    passages = probe_passages()
    assert len({each.task_id for each in passages}) == 48
    assert {each.title for each in passages} == {"General knowledge"}
    assert [each.questions[0].answers for each in passages] == [(each.gold,) for each in probe_questions()]
    assert probe_passages(probe_questions()[:2]) == passages[:2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 4}, "answer"),
        ({"answer": "1"}, "answer"),
        ({"answer": True}, "answer"),
        ({"choices": ["1", "2", "3"]}, "choices"),
        ({"choices": ["a", "A", "b", "c"]}, "must differ"),
        ({"choices": ["a", "", "b", "c"]}, "choices.1"),
        ({"question": " "}, "question"),
        ({"id": "../x"}, "id"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_question(change: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        parse_probe("\n" + json.dumps({**GOOD, **change}), "mine.jsonl")
    assert str(raised.value).startswith("mine.jsonl: line 2: ")


def test_an_id_twice_and_nothing_at_all() -> None:
    line = json.dumps(GOOD)
    assert parse_probe(f"{line}\n\n", "x")[0].gold == "2"
    with pytest.raises(DataError, match=r"x: line 2: the id 'sum' was there before"):
        parse_probe(f"{line}\n{line}", "x")
    with pytest.raises(DataError, match="no question"):
        parse_probe("\n \n", "x")


@settings(deadline=None)
@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)).map(
        json.dumps
    )
)
def test_any_text_is_questions_or_one_error(text: str) -> None:
    with suppress(DataError):
        assert parse_probe(text, "x")


def test_the_file_is_plain_lines() -> None:
    assert all(json.loads(line)["id"] for line in PROBE_FILE.read_text(encoding="utf-8").splitlines())
