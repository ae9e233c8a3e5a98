"""Question files: reading, and matching to passages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge import Passage, Question
from seal_lightning.domains.knowledge.documents import Documents
from seal_lightning.domains.knowledge.question_file import GivenQuestion, match_questions, read_questions

ROOT = Path(__file__).resolve().parents[3]
MILL = Passage.named(title="Guide › The mill", context="Tomas Helgren built the mill in 1742.", questions=())
KILN = Passage.named(
    title="Guide › The kiln", context="Ada Lindqvist built the kiln in 1831 of grey brick.", questions=()
)


def asked(question: str, *answers: str, title: str | None = None) -> GivenQuestion:
    return GivenQuestion(where="line 1", question=question, answers=answers, title=title)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.jsonl", '{"question": "Who?", "answer": "Ada"}\n\n{"question": "When?", "answer": ["1831", "in 1831"]}\n'),
        ("q.json", '[{"question": "Who?", "answer": "Ada"}, {"question": "When?", "answer": ["1831", "in 1831"]}]'),
        (
            "q.json",
            json.dumps(
                {
                    "data": [
                        {
                            "title": "x",
                            "paragraphs": [
                                {
                                    "context": "y",
                                    "qas": [
                                        {"question": "Who?", "answers": [{"text": "Ada"}]},
                                        {"question": "Impossible?", "answers": []},
                                        {"question": "When?", "answers": [{"text": "1831"}, {"text": "in 1831"}]},
                                    ],
                                }
                            ],
                        }
                    ]
                }
            ),
        ),
    ],
)
def test_every_form_gives_the_same_questions(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert [(q.question, q.answers) for q in read_questions(path)] == [
        ("Who?", ("Ada",)),
        ("When?", ("1831", "in 1831")),
    ]


def test_csv_has_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('Title, Question ,answer\nThe kiln,"Who, then?",Ada\n,When?,1831\n', encoding="utf-8-sig")
    first, second = read_questions(path)
    assert (first.question, first.answers, first.title) == ("Who, then?", ("Ada",), "The kiln")
    assert second.title is None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("q.jsonl", '{"question": "Who?", "answer": "Ada"}\n{"question": "When?"}\n', "line 2"),
        ("q.jsonl", '{"question": "Who?"', "line 1"),
        ("q.jsonl", '{"question": "  ", "answer": "x"}\n', "must not be blank"),
        ("q.json", '{"question": "Who?", "answer": "Ada"}', "neither a list nor SQuAD"),
        ("q.json", "[]", "no question"),
        ("q.csv", "a,b\n1,2\n", "question"),
        ("q.csv", b"question,answer\n\xff\xfe,x\n", "UTF-8"),
        ("q.txt", "Who built it?\n", "JSON"),
    ],
)
def test_invalid_question_file_is_reported(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=told):
        read_questions(path)


def test_question_goes_to_the_passage_with_its_answer() -> None:
    found = match_questions(
        [asked("Who built the mill?", "Tomas Helgren"), asked("Who built it of grey brick?", "Ada Lindqvist")],
        [MILL, KILN],
    )
    assert [[q.question for q in p.questions] for p in found.passages] == [
        ["Who built the mill?"],
        ["Who built it of grey brick?"],
    ]
    assert not found.unmatched


def test_question_without_answer_needs_half_of_its_words() -> None:
    near, far = asked("Who built the kiln of brick?", "a woman"), asked("How tall is the tower of London?", "a woman")
    found = match_questions([near, far], [MILL, KILN])
    assert [len(p.questions) for p in found.passages] == [0, 1]
    assert found.unmatched == (far,)


def test_repeated_question_counts_once() -> None:
    twice = [asked("Who built the mill?", "Tomas Helgren"), asked("who built  the mill", "Helgren")]
    found = match_questions(twice, [MILL, KILN])
    assert [len(p.questions) for p in found.passages] == [1, 0]
    assert found.repeated == (twice[1],)


def test_title_restricts_the_passages() -> None:
    found = match_questions([asked("Who built it?", "Tomas Helgren", title="Guide › The kiln")], [MILL, KILN])
    assert len(found.unmatched) == 1
    found = match_questions([asked("Who built it?", "Tomas Helgren", title="Guide")], [MILL, KILN])
    assert [len(p.questions) for p in found.passages] == [1, 0]


def test_questions_replace_those_of_the_passage() -> None:
    own = Passage.named(
        title="t", context="Ada built it.", questions=[Question(question_id="a", question="?", answers=("x",))]
    )
    (passage,) = match_questions([asked("Who built it?", "Ada")], [own]).passages
    assert [q.question for q in passage.questions] == ["Who built it?"]


@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=10)), max_size=8))
def test_no_question_is_lost_or_repeated(rows: list[tuple[str, str]]) -> None:
    questions = [asked(question, answer) for question, answer in rows]
    found = match_questions(questions, [MILL, KILN])
    ids = [q.question_id for p in found.passages for q in p.questions]
    assert len(ids) == len(set(ids))
    assert len(ids) + len(found.unmatched) + len(found.repeated) == len(questions)


def test_questions_of_the_walkthrough_match_its_documents() -> None:
    paths = [str(ROOT / "docs" / name) for name in ("serving.md", "documents.md")]
    passages = Documents(paths=paths, passage_tokens=160).load()
    found = match_questions(read_questions(ROOT / "docs/walkthrough.jsonl"), passages)
    assert not found.unmatched
    texts = {p.task_id: p.context for p in found.passages}
    assert all(q.answers[0].casefold() in texts[p.task_id].casefold() for p in found.passages for q in p.questions)


def test_chinese_questions_match_by_their_answers() -> None:
    texts = ("河港的开放时间为每天上午六点，冬季则推迟到上午七点开放。", "港内最高航速为每小时八公里。")
    passages = [Passage.named(title="河港", context=text, questions=()) for text in texts]
    given = [asked("冬季河港几点开放？", "上午七点"), asked("港内最高航速是多少？", "每小时八公里")]
    assert [len(p.questions) for p in match_questions(given, passages).passages] == [1, 1]
