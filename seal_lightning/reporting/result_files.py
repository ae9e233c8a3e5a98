"""``results/test*.json`` read back: what ``seal test`` measured, in the present format and in older ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import JSON, ExamScores
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.estimates import Estimate

MAX_TEST_BYTES = 256 * 2**20
"""A test of 2,067 tasks under every condition takes about 100 MiB."""
MAX_NUMBER = 1e100
"""Above it, squares and sums would leave the range of floats; a NaN is not below it either."""
SINGLE_PASSAGE = "single passage"
UNADAPTED = ("no_adaptation", "in_context")

_NUMBER = re.compile(r"test(?:-(\d+))?\.json")
_RENAMED = {"passage_only": "without_edit", "passage_matched": "without_edit_matched"}
"""What the first version called its conditions."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How tasks were met: one by one, all in one training set, or one after the other."""

    name: str = SINGLE_PASSAGE
    settings: dict[str, JSON] = field(default_factory=dict)
    num_steps: int = 1
    num_sequences: int = 1


@dataclass(frozen=True, kw_only=True)
class TestedModel:
    """Which model was tested."""

    __test__ = False  # pytest: not a test case

    pretrained: str | None = None
    student: str | None = None
    """Another model that learns from the policy's self-edits."""


@dataclass(frozen=True, kw_only=True)
class TestRow:
    """One condition of the table."""

    __test__ = False

    label: str
    condition: str
    round: int
    name: str | None = None
    num_tasks: int = 0
    num_questions: int = 0
    num_failed: int = 0
    num_unscored: int = 0
    num_merges: int = 0
    num_scaled: int = 0
    num_refused: int = 0
    """Steps whose merge a gate decided on, and of them those merged in part and not at all."""
    num_steps: Estimate | None = None
    log_prob: Estimate | None = None
    accuracy: Estimate | None = None
    f1: Estimate | None = None
    exact_match: Estimate | None = None
    solved: Estimate | None = None
    partial_credit: Estimate | None = None
    log_prob_vs_matched: Estimate | None = None
    log_prob_vs_untrained: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Scores by step (rows; row 0 before any) and place in the sequence (columns); None where nothing was examined."""

    label: str
    condition: str
    round: int
    score: str
    mean: tuple[tuple[float | None, ...], ...]
    standard_error: tuple[tuple[float | None, ...], ...] = ()
    n: tuple[tuple[int, ...], ...] = ()
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredQuestion:
    """A question as it was asked, and its gold answers."""

    question: str = ""
    gold: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoredTask:
    """A held-out task."""

    context: str = ""
    questions: dict[str, StoredQuestion] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredEdit:
    """A self-edit; its tokens stay in the file."""

    text: str
    edit_index: int = 0


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """One task, examined once under one condition."""

    __test__ = False

    condition: str
    round: int
    task_id: str
    scores: ExamScores
    name: str | None = None
    sequence: int = 0
    step: int = 0
    """0 before any adaptation, else after so many steps."""
    place: int = 0
    taught: bool = False
    """Whether the step just before was about this task; false of all in files of the first format."""
    num_tokens: float | None = None
    failure: str | None = None
    edits: tuple[StoredEdit, ...] = ()
    adapt_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """One results file."""

    path: Path
    protocol: Protocol = Protocol()
    model: TestedModel = TestedModel()
    inner_loop: str | None = None
    edits_per_task: int | None = None
    device: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    table: tuple[TestRow, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    tasks: dict[str, StoredTask] = field(default_factory=dict)
    """Passages and questions by task; empty in files of older versions."""
    results: tuple[TestResult, ...] = ()


R = TypeVar("R")


class _Kind(Generic[R]):
    """A record's parser, made when it is first needed."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._adapter: TypeAdapter[R] | None = None

    def __call__(self, content: object) -> R:
        self._adapter = self._adapter or TypeAdapter(self.kind)
        return self._adapter.validate_python(content)


_PARTS: dict[str, _Kind[Any]] = {
    "protocol": _Kind(Protocol),
    "model": _Kind(TestedModel),
    "inner_loop": _Kind(str | None),
    "edits_per_task": _Kind(int | None),
    "device": _Kind(str | None),
    "seconds": _Kind(float | None),
    "peak_memory_bytes": _Kind(int | None),
    "table": _Kind(tuple[TestRow, ...]),
    "matrices": _Kind(tuple[Matrix, ...]),
    "tasks": _Kind(dict[str, StoredTask]),
    "results": _Kind(tuple[TestResult, ...]),
}


def test_files(results: Path) -> list[Path]:
    """``test.json``, ``test-2.json`` … of a results folder, oldest first."""
    numbered = [
        (int(found[1] or 1), path) for path in results.glob("test*.json") if (found := _NUMBER.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


test_files.__test__ = False  # type: ignore[attr-defined]


def read_result(path: Path) -> StoredResult:
    """The test of a results file. Raises :class:`RunError` that names the part that is damaged."""
    content = _upgraded(_json(path), path)
    parts = {}
    for name, kind in _PARTS.items():
        if content.get(name) is None:
            continue
        try:
            parts[name] = kind(content[name])
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (name, *first["loc"])))
            raise _damaged(path, f"{shown(place)}: {first['msg']}, not {shown(first['input'])}") from error
    test = StoredResult(path=path, **parts)
    for matrix in test.matrices:
        if len({len(row) for row in matrix.mean}) > 1:
            raise _damaged(path, f"the rows of the matrix {shown(matrix.label)} are not of one length")
    return test


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEST_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_TEST_BYTES:
        raise RunError(
            f"{path} has more than {MAX_TEST_BYTES >> 20} MiB; no test writes so much. Nothing was read of it"
        )
    try:
        return json.loads(content, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, shown(str(error) or type(error).__name__, 200)) from error


def _finite(text: str) -> float:
    value = float(text)
    if not abs(value) <= MAX_NUMBER:
        raise ValueError(f"{shown(text)} is no number that a test measures")
    return value


def _upgraded(content: Any, path: Path) -> Mapping[str, Any]:
    """A file of any version as the present one would be; what is no mapping stays for the parser to refuse."""
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise _damaged(path, "it has no list of `results`")
    if content.get("format") == 2:
        return content
    if content.get("format") is not None:
        raise RunError(
            f"{path} has the format {shown(content['format'])}; this version reads files without a format, and format 2. "
            "Use the version that wrote it, or test again with `seal test --run RUN`"
        )
    rows = content.get("table")
    table = [_row(item) for item in rows] if isinstance(rows, list) else rows
    return content | {"table": table, "results": [_result(item) for item in content["results"]]}


def _row(row: Any) -> Any:
    return row | {"condition": _renamed(row)} if isinstance(row, dict) else row


def _result(result: Any) -> Any:
    if not isinstance(result, dict):
        return result
    condition, edit = _renamed(result), result.get("edit")
    step = 0 if condition in UNADAPTED else 1
    return result | {"condition": condition, "step": step, "edits": [] if edit is None else [edit]}


def _renamed(item: Mapping[str, Any]) -> Any:
    condition = item.get("condition")
    return _RENAMED.get(condition, condition) if isinstance(condition, str) else condition


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path} is no results file of `seal test`: {problem}. Nothing was changed; move it away, or test again with "
        "`seal test --run RUN`"
    )
