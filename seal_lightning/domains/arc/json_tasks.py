"""ARC tasks as JSON has them: ``{"train": [{"input", "output"}], "test": [{"input", "output"}]}``. Nothing is trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.arc.grids import Grid, InvalidGrid, checked_grid
from seal_lightning.domains.arc.task import ArcTask, Demonstration, TestPair

MAX_TASK_ID = 200
"""Characters."""
_MOST_BYTES = 256 * 2**20
"""Sixty times the largest file of ARC-AGI-2. What JSON becomes in memory is several times as large."""


class InvalidTask(ValueError):
    """Something is no ARC task; the text says which part of it, its value, and what is allowed."""


def checked_task(task_id: str, content: object, solutions: object = None, *, outputs_published: bool = True) -> ArcTask:
    """A task from its JSON value. Raises :class:`InvalidTask`.

    Args:
        task_id: 1 to 200 printable characters.
        content: the object with ``train`` and ``test``; other keys are ignored.
        solutions: the test outputs in order, where they are kept apart (Kaggle); they come before those in ``content``.
        outputs_published: whether a test without an output is refused.
    """
    if not 1 <= len(task_id) <= MAX_TASK_ID or not task_id.isprintable():
        raise InvalidTask(f"its id must be 1 to {MAX_TASK_ID} printable characters")
    try:
        demonstrations = tuple(
            Demonstration(input=_grid(pair, "input", what), output=_grid(pair, "output", what))
            for what, pair in _pairs(content, "train", "demonstration")
        )
        tests = _pairs(content, "test", "test")
        gold = _outputs(tests, solutions, outputs_published)
        pairs = (
            TestPair(input=_grid(pair, "input", what), output=output)
            for (what, pair), output in zip(tests, gold, strict=True)
        )
        return ArcTask(task_id=task_id, demonstrations=demonstrations, tests=tuple(pairs))
    except RecursionError as error:  # showing what just fitted the parser's stack may take a little more
        raise InvalidTask("it is nested too deeply") from error


def _pairs(content: object, key: str, what: str) -> Sequence[tuple[str, dict[str, object]]]:
    """The pairs in ``content[key]``, each with its name: "demonstration 0" or "test 0"."""
    if not isinstance(content, dict):
        raise InvalidTask(f"it must be an object with 'train' and 'test'; it is {json_kind(content)}")
    if key not in content:
        raise InvalidTask(f"it has no '{key}', which must be a list of at least one pair")
    pairs = content[key]
    if not isinstance(pairs, list) or not pairs:
        raise InvalidTask(f"its '{key}' must be a list of at least one pair; it is {json_kind(pairs)}")
    for number, pair in enumerate(pairs):
        if not isinstance(pair, dict):
            raise InvalidTask(f"{what} {number} must be an object with grids; it is {json_kind(pair)}")
    return [(f"{what} {number}", pair) for number, pair in enumerate(pairs)]


def _outputs(
    tests: Sequence[tuple[str, dict[str, object]]], solutions: object, published: bool
) -> Sequence[Grid | None]:
    if solutions is None:
        known = [published or pair.get("output") is not None for _, pair in tests]
        return [
            _grid(pair, "output", what) if there else None for (what, pair), there in zip(tests, known, strict=True)
        ]
    if not isinstance(solutions, list) or len(solutions) != len(tests):
        raise InvalidTask(
            f"its solutions must be a list of {len(tests)}, one for each test input; they are {json_kind(solutions)}"
        )
    return [_grid({"output": grid}, "output", what) for (what, _), grid in zip(tests, solutions, strict=True)]


def _grid(pair: dict[str, object], key: str, what: str) -> Grid:
    if key not in pair:
        raise InvalidTask(f"{what} has no '{key}'")
    try:
        return checked_grid(pair[key])
    except InvalidGrid as error:
        raise InvalidTask(f"{what}'s {key}: {error}") from error


def json_kind(value: object) -> str:
    """What a JSON value is, in words; lists and objects are never shown, as they may be huge or deep."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    return f"a list of {len(value)}" if isinstance(value, list) else shown(value)


def read_json(path: Path) -> object:
    """The JSON value in a file: UTF-8, at most 256 MiB, no key twice in an object. Raises :class:`DataError`."""
    content = _read_bytes(path)
    try:
        return json.loads(
            content.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_without_repeats
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: is not usable JSON: nested too deeply") from error
    except InvalidTask as error:
        raise DataError(f"{path}: {error}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error


def read_tasks_by_id(path: Path) -> dict[str, object]:
    """The object in a file whose keys are task ids. Raises :class:`DataError`."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: must hold an object with a task under each id, as Kaggle has it; it is {json_kind(value)}"
        )
    return value


def _read_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
            raise DataError(f"{path}: cannot be read: it is no file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file (working directory {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: the file is too large; allowed are {_MOST_BYTES} bytes. Split it into several")
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    return content


def _refuse_constant(token: str) -> NoReturn:
    raise InvalidTask(f"is not JSON: it has {token}, which JSON does not know")


def _without_repeats(items: list[tuple[str, object]]) -> dict[str, object]:
    """Of two tasks with one id, JSON's usual reader would silently take the later."""
    found = dict(items)
    if len(found) < len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidTask(f"an object has the key {shown(twice)} twice")
    return found
