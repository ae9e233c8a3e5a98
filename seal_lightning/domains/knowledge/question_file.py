"""Question files: a user's questions on documents, matched to the passages they are about."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import AliasChoices, Field

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.json_records import (
    Answers,
    Record,
    RecordError,
    Text,
    json_kind,
    parse_json,
    parse_lines,
    read_bytes,
    validated,
)
from seal_lightning.domains.knowledge.passage import Passage, Question

_WIDE = "\u2e80-\u303f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Chinese and Japanese characters: there are no blanks between words, so each counts as one."""
_WORD = re.compile(rf"[{_WIDE}]|[^\W_{_WIDE}]+")
_LEAST_SHARE = 0.5
"""Share of a question's words, weighted by rarity, that a passage without its answer must have."""


class _Row(Record):
    question: Text
    answer: Answers = Field(validation_alias=AliasChoices("answer", "answers"))
    title: Text | None = None


@dataclass(frozen=True, kw_only=True)
class GivenQuestion:
    """A question of a file."""

    where: str
    """The record's position in its file."""
    question: str
    answers: tuple[str, ...]
    title: str | None = None


@dataclass(frozen=True, kw_only=True)
class MatchedQuestions:
    """Passages with their questions."""

    passages: tuple[Passage, ...]
    """In their order; some have no question."""
    unmatched: tuple[GivenQuestion, ...]
    repeated: tuple[GivenQuestion, ...] = ()
    """Repetitions of an earlier question: one question must not serve both selection and evaluation."""


def read_questions(path: str | Path) -> list[GivenQuestion]:
    """Return the questions of a file, in its order.

    The file holds JSON lines or a JSON list of ``{question, answer, title?}`` (an answer is a text or a list of texts), CSV
    with these columns, or SQuAD. Raises :class:`DataError` for a file without questions or with an invalid record.
    """
    path = Path(path).expanduser()
    content = read_bytes(path)
    found: list[GivenQuestion] = []
    where = "the file"
    try:
        for where, row in _rows(path, content):
            if isinstance(row, RecordError):
                raise row
            record = validated(_Row, row)
            found.append(
                GivenQuestion(where=where, question=record.question, answers=tuple(record.answer), title=record.title)
            )
    except RecordError as error:
        raise DataError(
            f"--questions {path}: {where}: {error}. Give JSON lines or a list of {{question, answer, title?}}, CSV "
            "with these columns, or SQuAD's format"
        ) from error
    if not found:
        raise DataError(f"--questions {path}: the file has no question")
    return found


def _rows(path: Path, content: bytes) -> Iterator[tuple[str, object]]:
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(content)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from ((f"line {number}", row) for number, row in parse_lines(content))
    else:
        value = parse_json(content)
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            yield from _squad_rows(value["data"])
        elif isinstance(value, list):
            yield from ((f"record {index}", row) for index, row in enumerate(value))
        else:
            raise RecordError(f"is {json_kind(value)}, neither a list nor SQuAD's object")


def _squad_rows(articles: list[object]) -> Iterator[tuple[str, object]]:
    """Yield the questions that have an answer; the contexts are ignored."""
    for number, article in enumerate(articles):
        for paragraph in _dicts(article, "paragraphs"):
            for index, question in enumerate(_dicts(paragraph, "qas")):
                if answers := [answer.get("text") for answer in _dicts(question, "answers")]:
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
        raise RecordError(f"is not CSV in UTF-8 ({shown(str(error), 200)})") from error


def match_questions(questions: Sequence[GivenQuestion], passages: Sequence[Passage]) -> MatchedQuestions:
    """Give each question to the passage it is about, in place of the passages' own questions.

    Candidates are the passages of its title (where it names one) that hold one of its answers word by word, or else at
    least half of its words, weighted by rarity. Of these, passages with an answer come first, then those that share most
    of its words, then the first.
    """
    words = [Counter(_words(f"{passage.title} {passage.context}")) for passage in passages]
    texts = [f" {' '.join(_words(passage.context))} " for passage in passages]
    frequency = Counter(word for of_passage in words for word in of_passage)
    unseen = math.log(1 + len(passages))
    rarity = {word: math.log(1 + len(passages) / count) for word, count in frequency.items()}

    def rank(given: GivenQuestion, place: int) -> tuple[bool, float]:
        """Return if the passage holds an answer, and its share of the question's words; (False, 0) rejects it."""
        if given.title is not None and not _is_titled(passages[place], given.title):
            return False, 0.0
        asked = set(_words(given.question))
        total = sum(rarity.get(word, unseen) for word in asked)
        share = sum(rarity[word] for word in asked if word in words[place]) / total if total else 0.0
        answers = [" ".join(_words(answer)) for answer in given.answers]
        has_answer = any(answer and f" {answer} " in texts[place] for answer in answers)
        return (has_answer, share) if (has_answer and share > 0) or share >= _LEAST_SHARE else (False, 0.0)

    found: list[list[Question]] = [[] for _ in passages]
    unmatched, repeated = [], []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for number, given in enumerate(questions, start=1):
        key = (given.title or "", tuple(_words(given.question)) or (given.question,))
        if key in seen:
            repeated.append(given)
            continue
        seen.add(key)
        ranks = [rank(given, place) for place in range(len(passages))]
        best = max(ranks, default=(False, 0.0))
        if best == (False, 0.0):
            unmatched.append(given)
        else:
            question = Question(question_id=f"given-{number}", question=given.question, answers=given.answers)
            found[ranks.index(best)].append(question)
    return MatchedQuestions(
        passages=tuple(replace(p, questions=tuple(q)) for p, q in zip(passages, found, strict=True)),
        unmatched=tuple(unmatched),
        repeated=tuple(repeated),
    )


def _is_titled(passage: Passage, title: str) -> bool:
    """Return True if the title begins the passage's: a document's title stands before the heading."""
    return " ".join(_words(passage.title)).startswith(" ".join(_words(title)))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
