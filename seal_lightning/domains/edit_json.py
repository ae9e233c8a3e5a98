"""Strict parser for JSON written by a model: an ambiguous edit is malformed."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from seal_lightning.core.errors import MalformedEdit, shown

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n```", re.DOTALL)

_KINDS = {
    "missing": "missing key",
    "extra_forbidden": "extra key",
    "greater_than_equal": "out of bounds",
    "less_than_equal": "out of bounds",
}


class StrictModel(BaseModel):
    """Base of the models of an edit's JSON: no other keys, no values of another type."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def read_json_edit(text: str, max_bytes: int) -> Any:
    """Return the JSON of a text that is nothing else, in a Markdown fence or not.

    Raises :class:`MalformedEdit`: ``too long``, ``not JSON`` or ``duplicate key``.
    """
    if len(text) > max_bytes or len(text.encode(errors="replace")) > max_bytes:
        raise MalformedEdit("too long", f"{len(text)} characters; allowed are {max_bytes} bytes")
    bare = text.strip()
    fenced = _FENCED.fullmatch(bare)
    try:
        return json.loads(
            fenced[1] if fenced else bare, object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise MalformedEdit("not JSON", f"{str(error)[:80]}; it begins {shown(bare, 60)}") from error


def leading_json(text: str, max_bytes: int) -> tuple[Any, str]:
    """Return the JSON object that a text begins with, and the stripped text behind it.

    A line before the object and a Markdown fence around it are ignored.

    Raises :class:`MalformedEdit` as :func:`read_json_edit` does; so does an object that ends after ``max_bytes``.
    """
    start = text.find("{")
    if not 0 <= start <= max_bytes:
        raise MalformedEdit("not JSON", f"no object; it begins {shown(text.strip(), 60)}")
    head = text[start : start + max_bytes + 1]
    try:
        content, end = _DECODER.raw_decode(head)
    except (ValueError, RecursionError) as error:
        if len(head) > max_bytes:
            raise MalformedEdit("too long", f"the object does not end within {max_bytes} characters") from error
        raise MalformedEdit("not JSON", f"{str(error)[:80]}; it begins {shown(head, 60)}") from error
    return content, text[start + end :].strip().removeprefix("```").strip()


def malformed(error: ValidationError) -> MalformedEdit:
    """Return the first error: ``missing key``, ``extra key``, ``out of bounds`` or ``wrong value``."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(shown(part, 40).strip("'") for part in first["loc"]) or "the edit"
    message = "Input should be an object" if first["type"] == "model_type" else first["msg"][:120]
    value = "" if first["type"] == "missing" else f"; it is {_shown(first['input'])}"
    return MalformedEdit(_KINDS.get(first["type"], "wrong value"), f"{where}: {message}{value}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedEdit("duplicate key", shown(key, 60))
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise MalformedEdit("not JSON", f"{name} is no number of JSON")


def _shown(value: object) -> str:
    """Describe a value without the content of lists and objects, which may be nested beyond the stack."""
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else shown(value, 60)


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
