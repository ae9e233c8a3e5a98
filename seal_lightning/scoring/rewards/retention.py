"""The reward that subtracts forgetting from another reward (left open in §6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import Attempt, ExamRequest, Measurement, RewardScore, Task
from seal_lightning.core.errors import DataError, require
from seal_lightning.core.interfaces import AnyDomain, Engine, ExamBuilder, Rater, Reward, TaskSource
from seal_lightning.scoring.rewards.combinations import GainReward, merged_parts
from seal_lightning.scoring.rewards.exam_rewards import LikelihoodReward, finite_score


class Probe(ExamBuilder):
    """Tasks that the run does not train on, the same for every task; the likelihood of their gold answers is measured.

    Args:
        source: of the tasks.
        max_tasks: ≥ 1; the first so many are taken.
    """

    same_for_all_tasks = True

    def __init__(self, source: TaskSource, max_tasks: int) -> None:
        self.source = source
        self.max_tasks = max_tasks

    @property
    def needs(self) -> frozenset[Measurement]:
        """Likelihood alone: no text is generated."""
        return frozenset({Measurement.LIKELIHOOD})

    def bind(self, domain: AnyDomain, engine: Engine) -> None:
        """Load the tasks. Raises :class:`DataError` where none has a question."""
        tasks = tuple(self.source.load()[: self.max_tasks])
        if not any(domain.exam(task) for task in tasks):
            raise DataError(f"the probe of RetentionReward ({type(self.source).__name__}) has no question to ask")
        self.exam = ExamRequest(tasks=tasks)

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise :class:`DataError` where a task of the run is in the probe."""
        probed = {task.task_id for task in self.exam.tasks}
        if both := sorted({task.task_id for task in tasks if task.task_id in probed}):
            raise DataError(
                f"RetentionReward: {len(both)} of the probe's {len(probed)} tasks are trained or tested on in this run, for "
                f"instance {both[0]}; take another source, split or offset for the probe"
            )

    def build(self, tasks: Sequence[Task], seeds: Mapping[str, int]) -> Sequence[ExamRequest]:
        """Return the probe for every task."""
        self.check(tasks)
        return [self.exam] * len(tasks)


class RetentionReward(Reward):
    """Another reward, less the forgetting: base − weight · max(0, before − after).

    Before and after are the mean log-probability (nats per token) of a probe's gold answers, without and with the attempt's
    adapter. Every attempt is evaluated on the whole probe, by likelihood alone: with 4 passages of 5 questions, 20 short
    prompts beside the 5 of its own exam. The model without adaptation is evaluated once per round and rank.

    Args:
        probe: tasks of the run's domain that are neither trained nor tested on in the run.
        base: the reward of the edit; the gain in likelihood by default, which is in nats per token too.
        weight: ≥ 0 and finite, the cost of a forgotten nat.
        max_probe_tasks: ≥ 1; the probe's first so many tasks are taken.
        name: of the probe in stored attempts; unique in the run.

    Raises:
        ConfigError: a setting is out of bounds.

    Example:
        >>> from seal_lightning.domains.knowledge import BundledPassages
        >>> sorted(RetentionReward(BundledPassages(split="test"), weight=0.5).exam_builders)
        ['probe']
    """

    def __init__(
        self,
        probe: TaskSource,
        base: Reward | None = None,
        weight: float = 1.0,
        max_probe_tasks: int = 4,
        name: str = "probe",
    ) -> None:
        require(0 <= weight < math.inf, "RetentionReward.weight", weight, "finite and at least 0")
        require(max_probe_tasks >= 1, "RetentionReward.max_probe_tasks", max_probe_tasks, "at least 1")
        self.base = GainReward(LikelihoodReward()) if base is None else base
        self.weight = weight
        self.name = name
        self.probe = Probe(probe, max_probe_tasks)
        self._exam_builders = merged_parts([self.base.exam_builders, {name: self.probe}])

    @property
    def needs(self) -> frozenset[Measurement]:
        """The base's."""
        return self.base.needs

    @property
    def exam_builders(self) -> Mapping[str, ExamBuilder]:
        """The base's, and the probe."""
        return self._exam_builders

    @property
    def raters(self) -> Mapping[str, Rater]:
        """The base's."""
        return self.base.raters

    def score(self, attempt: Attempt) -> RewardScore:
        """Return None when the base has no value or the probe was not measured.

        The breakdown is the base's, with ``base``, ``forgotten``, ``probe_before`` and ``probe_after`` (nats per token).
        """
        given = self.base.score(attempt)
        exam = attempt.auxiliary_exams.get(self.name)
        before = exam.before.log_prob if exam is not None and exam.before is not None else None
        after = exam.after.log_prob if exam is not None and exam.after is not None else None
        value = forgotten = None
        if before is not None and after is not None and math.isfinite(before) and math.isfinite(after):
            forgotten = max(0.0, before - after)
            value = None if given.value is None else given.value - self.weight * forgotten
        parts = {"base": given.value, "forgotten": forgotten, "probe_before": before, "probe_after": after}
        return replace(finite_score(value, {**given.breakdown, **parts}), reason=given.reason)
