"""Records of passages in data files, and the passages built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from pydantic import Field

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.json_records import (
    Answers,
    Record,
    RecordError,
    SquadTitle,
    Text,
    json_kind,
    validated,
)
from seal_lightning.domains.knowledge.passage import Passage, Question, passage_id

Located = tuple[str, Passage | RecordError]
"""A record's position in its data set, and its passage or the reason it has none."""


class _QuestionRow(Record):
    question: Text
    answer: Answers


class _PassageRow(Record):
    title: Text
    context: Text
    questions: list[_QuestionRow]


class _SquadAnswer(Record):
    text: Text


class _SquadQuestion(Record):
    id: Text | None = None
    question: Text
    answers: list[_SquadAnswer] = Field(default=[])
    is_impossible: bool = False


class _SquadParagraph(Record):
    title: SquadTitle
    context: Text
    qas: list[_SquadQuestion]


class _FlatAnswers(Record):
    text: list[Text]


class FlatRow(Record):
    """A row of SQuAD's flat form, as data sets of the hub have it."""

    id: Text | None = None
    title: SquadTitle
    context: Text
    question: Text
    answers: _FlatAnswers


def squad_paragraphs(content: object, path: str | Path) -> Iterator[Located]:
    """Yield the paragraphs of a SQuAD file's content. Raises :class:`DataError` for another format."""
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"{path}: must hold an object with a list 'data', as SQuAD has it; it is {json_kind(content)}")
    for index, article in enumerate(articles):
        where = f"data[{index}]"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(article, dict) or not isinstance(paragraphs, list):
            yield where, RecordError("must be an object with a text 'title' and a list 'paragraphs'")
            continue
        title = {"title": article["title"]} if "title" in article else {}
        for number, paragraph in enumerate(paragraphs):
            row = {**paragraph, **title} if isinstance(paragraph, dict) else paragraph
            yield located(f"{where}.paragraphs[{number}]", partial(_squad_passage, row))


def _squad_passage(row: object) -> Passage:
    record = validated(_SquadParagraph, row)
    questions = [question for question in record.qas if not question.is_impossible]
    if any(not question.answers for question in questions):
        raise RecordError(f"title {shown(record.title)}, has a question without 'answers' that is not is_impossible")
    asked = [(question.id, question.question, [answer.text for answer in question.answers]) for question in questions]
    return build_passage(record.title, record.context, asked)


def passage_of_row(row: object, require_questions: bool) -> Passage:
    """Return the passage of ``{title, context, questions}``. Raises :class:`RecordError`, or the row if it is one."""
    if isinstance(row, RecordError):
        raise row
    if not require_questions and isinstance(row, dict):
        row = {"questions": [], **row}
    record = validated(_PassageRow, row)
    return build_passage(record.title, record.context, [(None, q.question, q.answer) for q in record.questions])


def located(where: str, build: Callable[[], Passage]) -> Located:
    """Return the position with the passage, or with the reason it cannot be built."""
    try:
        return where, build()
    except RecordError as error:
        return where, error


def build_passage(title: str, context: str, questions: Iterable[tuple[str | None, str, list[str]]]) -> Passage:
    """Return a passage from its parts; questions are (id or None, question, gold answers).

    A question without an id gets the passage's with its number; repeated answers are kept once. Raises
    :class:`RecordError` for a repeated id.
    """
    task_id = passage_id(title, context)
    built: dict[str, Question] = {}
    for number, (given_id, text, answers) in enumerate(questions):
        question_id = given_id or f"{task_id}-q{number}"
        if question_id in built:
            raise RecordError(f"title {shown(title)}, has the question id {shown(question_id)} twice")
        built[question_id] = Question(question_id=question_id, question=text, answers=tuple(dict.fromkeys(answers)))
    return Passage(task_id=task_id, title=title, context=context, questions=tuple(built.values()))
