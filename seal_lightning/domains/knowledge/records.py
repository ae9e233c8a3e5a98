"""What a record of a passage file must look like, and how one that does not is described."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, ValidationError
from pydantic_core import PydanticCustomError

from seal_lightning.core.errors import DataError, shown

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_BYTES = 256 * 2**20
"""Six times SQuAD v2's training file. What JSON becomes in memory is up to 30 times as large."""


def _filled(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        raise PydanticCustomError("blank", "must not be blank")
    if "\0" in stripped:
        raise PydanticCustomError("nul", "must not hold a NUL character")
    if not stripped.isascii() and _LONE_SURROGATE.search(stripped):
        raise PydanticCustomError("surrogate", "must not hold half a Unicode character (a lone surrogate)")
    return stripped


def _plain_title(title: str) -> str:
    """SQuAD writes its titles as in a URL: ``Fr%C3%A9d%C3%A9ric_Chopin``."""
    return unquote(title).replace("_", " ")


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise PydanticCustomError("answers", "must be a text or a list of texts")
    return value


def _without_repeats(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _not_empty(items: list[str]) -> list[str]:
    if not items:
        raise PydanticCustomError("no_items", "must have at least one item")
    return items


Text = Annotated[str, AfterValidator(_filled)]
SquadTitle = Annotated[str, AfterValidator(_plain_title), AfterValidator(_filled)]

ItemT = TypeVar("ItemT")
ListOf = Annotated[list[ItemT], FailFast()]
"""A list that is refused at its first bad item: a description of each bad one would take a hundred times its bytes."""

Answers = Annotated[
    ListOf[Text], BeforeValidator(_listed), AfterValidator(_not_empty), AfterValidator(_without_repeats)
]


class Record(BaseModel):
    """A part of a file: types are not coerced, keys that are not named are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class QuestionRow(Record):
    """A question of :class:`PassageRow`."""

    question: Text
    answer: Answers


class PassageRow(Record):
    """A passage as the SEAL release stores it."""

    title: Text
    context: Text
    questions: ListOf[QuestionRow]


class SquadAnswer(Record):
    """An answer of SQuAD; where it starts in the context is not used."""

    text: Text


class SquadQuestion(Record):
    """A question of SQuAD v1.1, or of v2 with ``is_impossible``."""

    id: Text | None = None
    question: Text
    answers: ListOf[SquadAnswer] = []
    is_impossible: bool = False


class SquadParagraph(Record):
    """A paragraph of SQuAD, with its article's title."""

    title: SquadTitle
    context: Text
    qas: ListOf[SquadQuestion]


class FlatAnswers(Record):
    """The answers column of SQuAD on the Hugging Face hub; empty where a question has no answer (v2)."""

    text: ListOf[Text]


class FlatRow(Record):
    """A row of SQuAD on the Hugging Face hub: one question."""

    id: Text | None = None
    title: SquadTitle
    context: Text
    question: Text
    answers: FlatAnswers


@dataclass(frozen=True, kw_only=True)
class InvalidRecord:
    """A record that was refused."""

    where: str
    """The record's place in its file, counted from 0 for records and from 1 for lines."""
    problem: str
    """The field, its value, and what is allowed."""


class RecordError(ValueError):
    """One record is no passage; the text says which field, its value, and what is allowed."""


RecordT = TypeVar("RecordT", bound=Record)


def validated(model: type[RecordT], value: object) -> RecordT:
    """The value as a record of this model. Raises :class:`RecordError`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RecordError(_first_problem(error, value)) from error


def _first_problem(error: ValidationError, value: object) -> str:
    first = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if not field:
        problem = f"must be a JSON object; it is {json_kind(value)}"
    elif first["type"] == "missing":
        problem = f"field '{field}' is missing"
    else:
        problem = f"field '{field}': {first['msg']}; it is {_shown_input(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    title = value.get("title") if isinstance(value, dict) else None
    return (f"title {shown(title)}, " if isinstance(title, str) else "") + problem + more


def _shown_input(value: object) -> str:
    return json_kind(value) if isinstance(value, (dict, list)) else shown(value)


def json_kind(value: object) -> str:
    """What a JSON value is, in words; lists and objects are never shown, as they may be huge or deep."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    return f"a list of {len(value)}" if isinstance(value, list) else shown(value)


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises :class:`DataError` when it cannot be read, is empty or is too large."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise DataError(f"{path}: the file has {size} bytes; allowed are {_MOST_BYTES}. Split it into several")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file (working directory {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    return content


def parse_json(content: bytes) -> object:
    """The JSON value in UTF-8 bytes. Raises :class:`RecordError`: JSON has no NaN or Infinity, and a nesting depth."""
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecordError:
        raise
    except UnicodeDecodeError as error:
        raise RecordError(f"is not UTF-8: {error}") from error
    except RecursionError as error:
        raise RecordError("is not usable JSON: nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"is not JSON: {error}") from error


def _refuse_constant(token: str) -> NoReturn:
    raise RecordError(f"is not JSON: it has {token}, which JSON does not know")


def read_json(path: Path) -> object:
    """The JSON value in a file. Raises :class:`DataError`."""
    try:
        return parse_json(read_bytes(path))
    except RecordError as error:
        raise DataError(f"{path}: {error}") from error
