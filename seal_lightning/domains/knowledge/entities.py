"""The names in a model's list of entities: JSON if it is, and what can be made out if it is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from seal_lightning.domains.knowledge.splitting import readable, without_chatty_opening, without_list_marker

_MOST_CHARS = 20_000
"""More of an answer is not read: a model that does not stop has no more entities, only more text."""
_MOST_BRACKETS = 50
_MOST_NAMES = 1000
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.){1,500})"')
_KEYS = ("name", "entity", "title")
_AROUND = " \t\"'`*_.,;:|#()[]{}“”‘’"
_DESCRIPTION = re.compile(r":\s|\s[-–—]\s|\s\(")


def read_entities(text: str, max_entities: int, max_chars: int) -> list[str]:
    """The different names in an answer, in its order.

    Tried in turn: the whole answer as JSON; the first array in it that is JSON and has a name; the quoted texts after a
    bracket that is no array (cut off, or with a mistake); the items of a list, one a line; a line with commas.

    Args:
        text: a model's, so anything.
        max_entities: names beyond so many are left out.
        max_chars: of a name; a longer one is no name and is left out.
    """
    text = readable(text)[:_MOST_CHARS].strip()
    names: dict[str, str] = {}
    for candidates in (_of_json(text), _of_arrays(text), _of_quotes(text), _of_lines(text)):
        for candidate in candidates:
            name = " ".join(candidate.split()).strip(_AROUND)
            if 0 < len(name) <= max_chars and any(map(str.isalnum, name)) and name.isprintable():
                names.setdefault(name.casefold(), name)
        if names:
            break
    return list(names.values())[:max_entities]


def _of_json(text: str) -> list[str]:
    try:
        return list(_names(json.loads(text)))
    except (ValueError, RecursionError):
        return []


def _of_arrays(text: str) -> list[str]:
    decoder = json.JSONDecoder()
    start = -1
    for _ in range(_MOST_BRACKETS):
        if (start := text.find("[", start + 1)) < 0:
            break
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if found := list(_names(value)):
            return found
    return []


def _of_quotes(text: str) -> list[str]:
    _, bracket, rest = text.partition("[")
    return [re.sub(r"\\(.)", r"\1", quoted) for quoted in _QUOTED.findall(rest.split("]")[0])] if bracket else []


def _of_lines(text: str) -> list[str]:
    lines = [line.strip() for line in without_chatty_opening(text).split("\n")]
    items = [line for line in lines if line and not line.endswith(":") and not line.startswith("```")]
    listed = [line for line in items if without_list_marker(line) != line]
    names = [_DESCRIPTION.split(without_list_marker(line), maxsplit=1)[0] for line in listed or items]
    if len(names) == 1:
        return re.split(r"[,;]\s", without_list_marker((listed or items)[0]).rpartition(": ")[2])
    return names


def _names(value: object) -> Iterator[str]:
    """The texts of a list; of an object, its lists'; of objects in a list, what they call their name."""
    if isinstance(value, dict):
        for item in _first(value.values()):
            yield from _names(item) if isinstance(item, list) else ()
    elif isinstance(value, list):
        for item in _first(value):
            if isinstance(item, dict):
                item = next((item[key] for key in _KEYS if key in item), None)
            if isinstance(item, str):
                yield item


def _first(items: Iterable[object]) -> Iterator[object]:
    yield from (item for item, _ in zip(items, range(_MOST_NAMES), strict=False))
