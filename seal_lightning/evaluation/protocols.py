"""Protocols that turn held-out tasks into episodes: single passage, continued pretraining, continual self-edits (§3.2, §5).

An episode is a list of steps. A step adapts on a group of tasks and may merge; after every step all tasks seen so far are
examined. The outcome is a matrix, steps + 1 by tasks; row 0 is before any step.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from seal_lightning.core import AdaptationPlan, AdapterSpec, OptimizerSpec, Task
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.evaluation_records import SINGLE_PASSAGE
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.mitigations import Mitigation


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Groups of tasks that are learned one after another."""

    index: int
    """Index among the protocol's episodes."""
    steps: tuple[tuple[Task, ...], ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks; a task's place is its index in them."""
        return tuple(task for group in self.steps for task in group)

    def seen(self, num_steps: int) -> tuple[Task, ...]:
        """Return the tasks of the first steps."""
        return tuple(task for group in self.steps[:num_steps] for task in group)


class Protocol(Configurable, ABC):
    """The base class: how held-out tasks are grouped, learned and examined.

    Args:
        adapter: replaces the adapter of the domain's plans.
        optimizer: replaces their optimiser.

    Example:
        >>> from seal_lightning.core import Task
        >>> from seal_lightning.evaluation import Protocol
        >>> from seal_lightning.evaluation.protocols import Episode
        >>> class Pairs(Protocol):
        ...     '''Learns two tasks at a time.'''
        ...
        ...     name = "pairs"
        ...     joins_edits = True
        ...
        ...     def episodes(self, tasks, seed):
        ...         return [Episode(index=i, steps=(tuple(tasks[2 * i : 2 * i + 2]),)) for i in range(len(tasks) // 2)]
        >>> [[task.task_id for task in episode.tasks] for episode in Pairs().episodes([Task(task_id=t) for t in "abcd"], 1)]
        [['a', 'b'], ['c', 'd']]
    """

    name: str
    """Its name in tables."""
    merges = False
    """Whether each step is merged into the weights, and the merged model writes the next edit."""
    joins_edits = False
    """Whether all edits of a step are one training set; otherwise each edit is tried alone."""
    spread = False
    """Whether ranks share each episode: each writes and examines its share of tasks, and repeats the training."""
    against_forgetting: Sequence[Mitigation] = ()
    """Mitigations of forgetting, in the order in which they are applied."""

    def __init__(self, adapter: AdapterSpec | None = None, optimizer: OptimizerSpec | None = None) -> None:
        self.adapter = adapter
        self.optimizer = optimizer

    @abstractmethod
    def episodes(self, tasks: Sequence[Task], seed: int) -> list[Episode]:
        """Return the episodes; ``seed`` is the run's. Raises :class:`ConfigError` where there are too few tasks."""

    def num_at_once(self, tasks_per_batch: int) -> int:
        """Return how many episodes share a batch."""
        return 1

    def plan(self, plan: AdaptationPlan) -> AdaptationPlan:
        """Return a plan with the protocol's own adapter and optimiser, where it has them."""
        return replace(plan, adapter=self.adapter or plan.adapter, optimizer=self.optimizer or plan.optimizer)

    def num_examined(self, episode: Episode, num_steps: int) -> int:
        """Return how many of an episode's tasks, in order, are examined after its first steps: those seen."""
        return len(episode.seen(num_steps))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that distinguish this protocol from others of its class, as results store them."""
        found = {key: value for key, value in vars(self).items() if not key.startswith("_") and value is not None}
        if self.against_forgetting:
            found["against_forgetting"] = [mitigation.settings for mitigation in self.against_forgetting]
        return found


class SinglePassage(Protocol):
    """Learns each task alone, from a fresh start (Table 2's single passage, n = 1; ARC). Nothing is merged.

    Example:
        >>> from seal_lightning.core import Task
        >>> from seal_lightning.evaluation import SinglePassage
        >>> len(SinglePassage().episodes([Task(task_id="a"), Task(task_id="b")], seed=1))
        2
    """

    name = SINGLE_PASSAGE

    def episodes(self, tasks: Sequence[Task], seed: int) -> list[Episode]:
        """Return an episode of one step per task."""
        return [Episode(index=i, steps=((task,),)) for i, task in enumerate(tasks)]

    def num_at_once(self, tasks_per_batch: int) -> int:
        """Return as many as tasks: they are adapted side by side."""
        return tasks_per_batch


class ContinuedPretraining(Protocol):
    """Learns the edits of all tasks together, and examines all of them (Table 2's n = 200 and 2067).

    Args:
        num_tasks: n ≥ 1, the first so many tasks; None is all.
        adapter: see :class:`Protocol`.
        optimizer: see :class:`Protocol`; the paper's is another than for single passages.

    Example:
        >>> from seal_lightning.core import Task
        >>> from seal_lightning.evaluation import ContinuedPretraining
        >>> (episode,) = ContinuedPretraining(num_tasks=2).episodes([Task(task_id=t) for t in "abc"], seed=1)
        >>> [task.task_id for task in episode.tasks]
        ['a', 'b']
    """

    name = "continued pretraining"
    joins_edits = True
    spread = True

    def __init__(
        self,
        num_tasks: int | None = None,
        adapter: AdapterSpec | None = None,
        optimizer: OptimizerSpec | None = None,
    ) -> None:
        super().__init__(adapter, optimizer)
        _check_count("num_tasks", 1 if num_tasks is None else num_tasks)
        self.num_tasks = num_tasks

    def episodes(self, tasks: Sequence[Task], seed: int) -> list[Episode]:
        """Return a single episode of a single step."""
        if self.num_tasks is not None and self.num_tasks > len(tasks):
            raise _too_few("num_tasks", self.num_tasks, len(tasks))
        return [Episode(index=0, steps=(tuple(tasks[: self.num_tasks]),))] if tasks else []


class ContinualSelfEdits(Protocol):
    """Learns tasks one after another, each merged into the weights before the next (§5, Figure 6).

    Args:
        num_steps: K ≥ 1, tasks in a sequence (8 in the paper).
        num_sequences: S ≥ 1, sequences (64 in the paper); they share no task until all tasks were used once, and a sequence
            has no task twice.
        adapter: see :class:`Protocol`.
        optimizer: see :class:`Protocol`.
        against_forgetting: :mod:`seal_lightning.evaluation.mitigations`, in the order in which they are applied; none by
            default, as in the paper. They compose; a gate comes last.
        examine_next: whether the next task is examined too, after each step: what it gained before its own step is
            transfer, not learned from it.

    Example:
        >>> from seal_lightning.core import Task
        >>> from seal_lightning.evaluation import ContinualSelfEdits
        >>> protocol = ContinualSelfEdits(num_steps=2, num_sequences=3)
        >>> episodes = protocol.episodes([Task(task_id=t) for t in "abcd"], seed=1)
        >>> [len(episode.steps) for episode in episodes]
        [2, 2, 2]
    """

    name = "continual self-edits"
    merges = True
    joins_edits = True
    examine_next = False

    def __init__(
        self,
        num_steps: int = 8,
        num_sequences: int = 8,
        adapter: AdapterSpec | None = None,
        optimizer: OptimizerSpec | None = None,
        against_forgetting: list[Mitigation] | None = None,
        examine_next: bool = False,
    ) -> None:
        super().__init__(adapter, optimizer)
        _check_count("num_steps", num_steps)
        _check_count("num_sequences", num_sequences)
        self.num_steps = num_steps
        self.num_sequences = num_sequences
        if examine_next:
            self.examine_next = True  # and nothing otherwise: settings name what differs from the paper's
        if against_forgetting:
            self.against_forgetting = tuple(against_forgetting)
            _check_order(self.against_forgetting)

    def num_examined(self, episode: Episode, num_steps: int) -> int:
        """Return the number of seen tasks, and of the next one with ``examine_next``."""
        return len(episode.seen(num_steps + self.examine_next))

    def episodes(self, tasks: Sequence[Task], seed: int) -> list[Episode]:
        """Return sequences of tasks, drawn from shuffled rounds of all tasks."""
        if self.num_steps > len(tasks):
            raise _too_few("num_steps", self.num_steps, len(tasks))
        shuffle = random.Random(derive_seed(seed, "sequences"))  # noqa: S311 - a sample, no secret
        waiting: list[Task] = []
        episodes = []
        for index in range(self.num_sequences):
            chosen: list[Task] = []
            while len(chosen) < self.num_steps:
                free = [task for task in waiting if task not in chosen]
                if not free:
                    waiting += shuffle.sample(list(tasks), len(tasks))
                    continue
                chosen.append(free[0])
                waiting.remove(free[0])
            episodes.append(Episode(index=index, steps=tuple((task,) for task in chosen)))
        return episodes


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"model.protocol.init_args.{name}: {value} is not allowed; it must be at least 1")


def _check_order(mitigations: Sequence[Mitigation]) -> None:
    anchors = [mitigation for mitigation in mitigations if mitigation.anchors]
    if len(anchors) > 1:
        raise ConfigError(
            f"model.protocol.init_args.against_forgetting: {len(anchors)} × {type(anchors[0]).__name__} is not allowed; a "
            "plan has one anchor, with one weight. Give one KLAnchor both earlier texts and texts of its own (texts)"
        )
    for before, after in pairwise(mitigations):
        if before.decides:
            raise ConfigError(
                f"model.protocol.init_args.against_forgetting: {type(before).__name__} before {type(after).__name__} is not "
                "allowed: nothing may change an update after a gate decided on it. Put the gate last, and only one"
            )


def _too_few(name: str, wanted: int, there: int) -> ConfigError:
    return ConfigError(
        f"model.protocol.init_args.{name}: {wanted} is not allowed; data.test has {there} tasks, so it must be 1 to {there}. "
        "Lower it, or give data.test more tasks (its limit may cut them)"
    )
