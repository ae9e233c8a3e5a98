"""Questions that come apart from their passages, in a file of their own, and which passage each is about."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.passage import Passage, Question
from seal_lightning.domains.knowledge.records import (
    Answers,
    Record,
    RecordError,
    Text,
    json_kind,
    parse_json,
    read_bytes,
    validated,
)

_WORD = re.compile(r"[^\W_]+")
_LEAST_SHARE = 0.5
"""Of a question's words, weighted by how rare they are, a passage must have that has no answer to it."""


class _Row(Record):
    """A question with its answers, and the title of what it is about, where the file says so."""

    question: Text
    answer: Answers
    title: Text | None = None


@dataclass(frozen=True, kw_only=True)
class GivenQuestion:
    """A question of a file."""

    where: str
    """The record's place in its file."""
    question: str
    answers: tuple[str, ...]
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class MatchedQuestions:
    """Passages with the questions that are about them."""

    passages: tuple[Passage, ...]
    """In their order; those that no question is about have none."""
    unmatched: tuple[GivenQuestion, ...]
    repeated: tuple[GivenQuestion, ...] = ()
    """The same words, asked before: one question must not both choose and examine."""


def read_questions(path: str | Path) -> list[GivenQuestion]:
    """The questions of a file, in its order.

    JSON lines or a JSON list of ``{question, answer, title?}`` (an answer is a text or a list of texts), CSV with such
    columns, or SQuAD. Raises :class:`DataError` for a file that cannot be read, or has no question or a record that is none.
    """
    path = Path(path).expanduser()
    content = read_bytes(path)
    found: list[GivenQuestion] = []
    try:
        for where, row in _rows(path, content):
            try:
                record = validated(_Row, row)
            except RecordError as error:
                raise RecordError(f"{where}: {error}") from error
            found.append(
                GivenQuestion(where=where, question=record.question, answers=tuple(record.answer), title=record.title)
            )
    except RecordError as error:
        raise DataError(
            f"--questions {path}: {error}. Allowed are JSON lines or a list of {{question, answer, title?}}, CSV with these "
            "columns, and SQuAD's format. Nothing was computed"
        ) from error
    if not found:
        raise DataError(f"--questions {path}: there is no question in it. Nothing was computed")
    return found


def matched(questions: Sequence[GivenQuestion], passages: Sequence[Passage]) -> MatchedQuestions:
    """Each question with the passage that it is about, in place of the passages' own questions.

    Of the passages of its title (where it names one) that have one of its answers word by word, or else at least half of its
    words, rare ones counting more, it is the one that shares most of its words; the first of equals.
    """
    words = [Counter(_words(f"{passage.title} {passage.context}")) for passage in passages]
    texts = [f" {' '.join(_words(passage.context))} " for passage in passages]
    frequency = Counter(word for of_passage in words for word in of_passage)
    rarity = {word: math.log(1 + len(passages) / count) for word, count in frequency.items()}
    unseen = math.log(1 + len(passages))
    found: list[list[Question]] = [[] for _ in passages]
    unmatched = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    repeated = []
    for number, given in enumerate(questions, start=1):
        key = (given.title or "", tuple(_words(given.question)) or (given.question,))
        if key in seen:
            repeated.append(given)
            continue
        seen.add(key)
        asked = set(_words(given.question))
        total = sum(rarity.get(word, unseen) for word in asked)
        answers = [f" {' '.join(_words(answer))} " for answer in given.answers]
        best, best_rank = None, (False, 0.0)
        for place, of_passage in enumerate(words):
            if given.title is not None and not _is_titled(passages[place], given.title):
                continue
            has_answer = any(answer.strip() and answer in texts[place] for answer in answers)
            share = sum(rarity[word] for word in asked if word in of_passage) / total if total else 0.0
            if ((has_answer and share > 0) or share >= _LEAST_SHARE) and (has_answer, share) > best_rank:
                best, best_rank = place, (has_answer, share)
        if best is None:
            unmatched.append(given)
        else:
            found[best].append(Question(question_id=f"given-{number}", question=given.question, answers=given.answers))
    return MatchedQuestions(
        passages=tuple(replace(p, questions=tuple(q)) for p, q in zip(passages, found, strict=True)),
        unmatched=tuple(unmatched),
        repeated=tuple(repeated),
    )


def _is_titled(passage: Passage, title: str) -> bool:
    """Whether the title begins the passage's: documents' titles stand before their headings'."""
    return " ".join(_words(passage.title)).startswith(" ".join(_words(title)))


def _rows(path: Path, content: bytes) -> Iterator[tuple[str, object]]:
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(content)
    elif path.suffix.lower() == ".jsonl":
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                yield f"line {number}", _at(f"line {number}", line)
    else:
        yield from _json_rows(_at("the file", content))


def _at(where: str, content: bytes) -> object:
    try:
        return parse_json(content)
    except RecordError as error:
        raise RecordError(f"{where} {error}") from error


def _json_rows(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        yield from _squad_rows(value["data"])
    elif isinstance(value, list):
        yield from ((f"record {index}", row) for index, row in enumerate(value))
    else:
        raise RecordError(f"is {json_kind(value)}, neither a list nor SQuAD's object")


def _squad_rows(articles: list[object]) -> Iterator[tuple[str, object]]:
    """Questions that have an answer; the contexts are not looked at."""
    for number, article in enumerate(articles):
        for row in _dicts(article, "paragraphs"):
            for index, question in enumerate(_dicts(row, "qas")):
                answers = [answer.get("text") for answer in _dicts(question, "answers")]
                if answers:
                    yield f"data[{number}], question {index}", {"question": question.get("question"), "answer": answers}


def _dicts(value: object, name: str) -> list[dict[str, object]]:
    items = value.get(name) if isinstance(value, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _csv_rows(content: bytes) -> Iterator[tuple[str, object]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            given = {name.strip().lower(): value for name, value in row.items() if isinstance(name, str) and value}
            yield f"line {reader.line_num}", given
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"is no CSV in UTF-8 ({shown(str(error), 200)})") from error


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
