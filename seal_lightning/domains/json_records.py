"""JSON files of records: reading, validation by pydantic models, and one form of message for everything that is wrong."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json

from seal_lightning.core.errors import DataError, shown


class RecordError(ValueError):
    """A record that is not what its file should hold; the text names the field, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class InvalidRecord:
    """A record that was skipped."""

    where: str
    """The record's position in its file: records count from 0, lines from 1."""
    problem: str
    """The field, its value and what is allowed."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class Record(BaseModel):
    """Base of the models of records: types are not coerced, unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def _filled(text: str) -> str:
    stripped = text.strip()
    if not stripped or "\0" in stripped:  # no tokenizer takes a NUL
        raise PydanticCustomError("blank", "must not be blank or hold a NUL character")
    return stripped


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_filled)]
SquadTitle = Annotated[str, AfterValidator(lambda title: unquote(title).replace("_", " ")), AfterValidator(_filled)]
"""A title as SQuAD writes it, encoded like a URL: ``Fr%C3%A9d%C3%A9ric_Chopin``."""
Answers = Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1)]
"""A text or a list of at least one."""

RecordT = TypeVar("RecordT", bound=Record)


def validated(model: type[RecordT], value: object) -> RecordT:
    """Return the value as a record of ``model``. Raises :class:`RecordError`."""
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
        problem = f"field '{field}': {first['msg']}; it is {json_kind(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    title = value.get("title") if isinstance(value, dict) else None
    return (f"title {shown(title)}, " if isinstance(title, str) else "") + problem + more


def json_kind(value: object) -> str:
    """Describe a JSON value: the length of a list or object, else the value itself."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    return f"a list of {len(value)}" if isinstance(value, list) else shown(value)


def read_bytes(path: Path) -> bytes:
    """Return the file's bytes. Raises :class:`DataError` when it cannot be read or is empty."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason} (working directory {Path.cwd()})") from error
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    return content


def parse_json(content: bytes) -> Any:
    """Return the JSON value of UTF-8 bytes. Raises :class:`RecordError`, also for NaN and Infinity."""
    try:
        return from_json(content.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        raise RecordError(f"is not JSON in UTF-8: {error}") from error


def read_json(path: Path) -> Any:
    """Return the JSON value of a file. Raises :class:`DataError`."""
    try:
        return parse_json(read_bytes(path))
    except RecordError as error:
        raise DataError(f"{path}: {error}") from error


def parse_lines(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield each filled line's number, counted from 1, and its JSON value or :class:`RecordError`."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except RecordError as error:
                yield number, error
