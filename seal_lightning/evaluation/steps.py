"""The steps of episodes taken: adapt on what a step is about, maybe merge, and examine what is known then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AdaptationPlan, Adapted, Adapter, Diverged, ExamScores, Measurement, Task
from seal_lightning.core.evaluation_records import Arm, ConditionResult, MergeDecision
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.merging import Merging
from seal_lightning.evaluation.protocols import Episode, Protocol
from seal_lightning.evaluation.training_sets import StepPlan
from seal_lightning.evaluation.unadapted_exams import is_finite, result_at

_NOT_FINITE = "diverged: the adapted model's log-probabilities are not finite"


@dataclass(frozen=True)
class Job:
    """One adaptation that is to be made: a step of an episode under a condition."""

    arm: Arm
    episode: Episode
    step: int
    """From 1."""
    planned: StepPlan
    merging: Merging | None = None
    """The episode's, where its steps merge."""


class Steps:
    """Takes steps of episodes.

    Args:
        runner: how adapters are trained and exams sat.
        protocol: who is examined after a step, and whether it is merged.
        share: which part of an episode's tasks is this rank's, (rank, number of ranks).
        needs: what exams measure.
    """

    def __init__(
        self, runner: AttemptRunner, protocol: Protocol, share: tuple[int, int], needs: frozenset[Measurement]
    ) -> None:
        self.runner = runner
        self.protocol = protocol
        self.share = share
        self.needs = needs

    def taken(self, jobs: Sequence[Job], before: Mapping[tuple[int, int], ConditionResult]) -> list[ConditionResult]:
        """Adapt on each job's plan, all in one call, and examine what is to be examined after it, all in another.

        Where results are large, in as many calls as it takes.
        """
        size = self.runner.inner_loop.max_results or max(len(jobs), 1)
        chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        return [cell for chunk in chunks for cell in self._taken_together(chunk, before)]

    def _taken_together(
        self, jobs: Sequence[Job], before: Mapping[tuple[int, int], ConditionResult]
    ) -> list[ConditionResult]:
        seeds = [self.seed(job) for job in jobs]
        outcomes = self._adapted([(job.planned.plan, seed) for job, seed in zip(jobs, seeds, strict=True)])
        decisions = [self._merged(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
        sitting = [self._sitting(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
        exams = self.runner.examine([(task, adapter) for seats in sitting for _, task, adapter in seats], self.needs)
        scores = iter(exams)
        results = []
        for job, outcome, decision, seats in zip(jobs, outcomes, decisions, sitting, strict=True):
            measured = {place: next(scores) for place, _, _ in seats}
            results += [
                replace(cell, merge=decision) if cell.taught else cell
                for cell in self._cells(job, outcome, measured, before)
            ]
        return results

    @staticmethod
    def _merged(job: Job, outcome: Adapted | Diverged | None) -> MergeDecision | None:
        """Merge what was learned, where steps merge; what a gate decided."""
        plan = job.planned.plan
        if job.merging is None or not isinstance(outcome, Adapted) or plan is None:
            return None
        return job.merging.merge(plan, outcome.adapter)

    def _adapted(self, wanted: Sequence[tuple[AdaptationPlan | None, int]]) -> list[Adapted | Diverged | None]:
        """An outcome for each plan; the same plan with the same seed is trained once."""
        once = list(dict.fromkeys((plan, seed) for plan, seed in wanted if plan is not None))
        found = self.runner.inner_loop.adapt([plan for plan, _ in once], [seed for _, seed in once]) if once else []
        outcomes = dict(zip(once, found, strict=True))
        return [None if plan is None else outcomes[plan, seed] for plan, seed in wanted]

    def seed(self, job: Job) -> int:
        """The inner loop's, the same under all conditions: a task's own, or where tasks are met in company, the step's."""
        group = job.episode.steps[job.step - 1]
        if len(group) == 1 and not self.protocol.merges:
            return inner_seed(self.runner.seed, group[0].task_id)
        return derive_seed(self.runner.seed, "test", "episode", job.episode.index, job.step)

    def _examined(self, job: Job) -> list[tuple[int, Task]]:
        """Who is examined after the job, of this rank's share: all seen so far, or as the protocol says."""
        rank, num_ranks = self.share
        last = self.protocol.num_examined(job.episode, job.step)
        return list(enumerate(job.episode.tasks[:last]))[rank::num_ranks]

    def _sitting(self, job: Job, outcome: Adapted | Diverged | None) -> list[tuple[int, Task, Adapter | None]]:
        """Who sits an exam after the job, with which adapter; nobody where nothing has changed."""
        if isinstance(outcome, Adapted) or self.protocol.merges:
            adapter = outcome.adapter if isinstance(outcome, Adapted) and not self.protocol.merges else None
            return [(place, task, adapter) for place, task in self._examined(job)]
        return []

    def _cells(
        self,
        job: Job,
        outcome: Adapted | Diverged | None,
        measured: Mapping[int, ExamScores],
        before: Mapping[tuple[int, int], ConditionResult],
    ) -> list[ConditionResult]:
        """A result for each task that is examined after the job."""
        first, behind = (len(job.episode.seen(step)) for step in (job.step - 1, job.step))
        cells = []
        for place, task in self._examined(job):
            scores = measured[place] if place in measured else before[job.episode.index, place].scores
            cell = result_at(job.arm, job.episode, job.step, place, task, scores)
            if first <= place < behind:
                cell = replace(job.planned.told(cell, outcome), taught=True)
            if not is_finite(measured.get(place)):
                unadapted = before[job.episode.index, place].scores
                cell = replace(cell, scores=unadapted, failure=_NOT_FINITE, failed_edits=max(1, len(cell.edits)))
            if isinstance(outcome, Adapted) and job.planned.plan is not None:
                everyone = self.protocol.num_examined(job.episode, job.step)
                cell = replace(
                    cell,
                    num_steps=len(outcome.losses),
                    num_sequences=len(job.planned.plan.sequences),
                    num_tokens=outcome.num_tokens / everyone,
                    adapt_seconds=outcome.seconds / everyone,
                )
            cells.append(cell)
        return cells


def inner_seed(seed: int, task_id: str) -> int:
    """The inner loop's seed of a held-out task, the same under all conditions and in a search."""
    return derive_seed(seed, "test", task_id)
