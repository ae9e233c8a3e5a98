"""The steps of episodes: adapt on a step's plan, merge where the protocol merges, and examine what is known then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    Diverged,
    ExamScores,
    Measurement,
    Task,
    TrainingSequence,
)
from seal_lightning.core.evaluation_records import Arm, ConditionResult, MergeDecision
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.mitigations import MergeProposal, Mitigation
from seal_lightning.evaluation.protocols import Episode, Protocol
from seal_lightning.evaluation.reference_exams import is_finite, result_at
from seal_lightning.evaluation.training_sets import StepPlan
from seal_lightning.inner_loop.whole_weights import merge
from seal_lightning.models.language_model import LanguageModel

_NOT_FINITE = "diverged: the adapted model's log-probabilities are not finite"
_Outcome = Adapted | Diverged | None


class EpisodeMerges:
    """The merges of one episode under one condition: each step's update becomes the model's own.

    Args:
        learner: the model that merges.
        mitigations: in the order in which they are applied.
    """

    def __init__(self, learner: LanguageModel, mitigations: Sequence[Mitigation]) -> None:
        self.learner = learner
        self.mitigations = mitigations
        self.past: list[TrainingSequence] = []
        """What was trained on and merged, oldest first; replayed sequences occur once."""
        self.merged: Adapter | None = None
        """The update of the last :meth:`merge`; None where it was refused."""

    def prepared(self, plan: AdaptationPlan, seed: int) -> AdaptationPlan:
        """Return a step's plan with the changes of the mitigations."""
        for i, mitigation in enumerate(self.mitigations):
            plan = mitigation.plan(plan, tuple(self.past), derive_seed(seed, "against forgetting", i))
        return plan

    def merge(self, plan: AdaptationPlan, adapter: Adapter) -> MergeDecision | None:
        """Merge a step's update as far as the mitigations allow; ``plan`` is what it was trained on.

        Returns the gate's decision; None without a gate.
        """
        proposal = MergeProposal(adapter=adapter)
        for mitigation in self.mitigations:
            if proposal.adapter is not None:
                proposal = mitigation.merging(proposal, tuple(self.past))
        if proposal.adapter is not None:
            self.merge_again(plan, proposal.adapter)
        self.merged = proposal.adapter
        return proposal.decision

    def merge_again(self, plan: AdaptationPlan, adapter: Adapter) -> None:
        """Repeat a merge that was allowed before."""
        merge(self.learner, adapter)
        self.past = list(dict.fromkeys((*self.past, *plan.sequences)))


@dataclass(frozen=True)
class EpisodeStep:
    """One adaptation: a step of an episode under a condition."""

    arm: Arm
    episode: Episode
    step: int
    """From 1."""
    planned: StepPlan
    merges: EpisodeMerges | None = None
    """The episode's, where its steps merge."""


class StepRunner:
    """Runs steps of episodes.

    Args:
        runner: trains adapters and runs exams.
        protocol: says which tasks are examined after a step, and whether steps merge.
        share: this rank's part of an episode's tasks, (rank, number of ranks).
        needs: what exams measure.
    """

    def __init__(
        self, runner: AttemptRunner, protocol: Protocol, share: tuple[int, int], needs: frozenset[Measurement]
    ) -> None:
        self.runner = runner
        self.protocol = protocol
        self.share = share
        self.needs = needs

    def run(
        self, steps: Sequence[EpisodeStep], before: Mapping[tuple[int, int], ConditionResult]
    ) -> list[ConditionResult]:
        """Adapt on all steps in one call, and examine what follows them in another.

        Where an inner loop's results are large, in as many calls as it needs. ``before`` has the results before any step.
        """
        size = self.runner.inner_loop.max_results or max(len(steps), 1)
        chunks = [steps[start : start + size] for start in range(0, len(steps), size)]
        return [cell for chunk in chunks for cell in self._run_together(chunk, before)]

    def _run_together(
        self, steps: Sequence[EpisodeStep], before: Mapping[tuple[int, int], ConditionResult]
    ) -> list[ConditionResult]:
        outcomes = self._adapted([(step.planned.plan, self.seed(step)) for step in steps])
        decisions = [_merged(step, outcome) for step, outcome in zip(steps, outcomes, strict=True)]
        wanted = [self._exams_after(step, outcome) for step, outcome in zip(steps, outcomes, strict=True)]
        pairs = [(task, adapter) for exams in wanted for _, task, adapter in exams]
        scores = iter(self.runner.examine(pairs, self.needs))
        results = []
        for step, outcome, decision, exams in zip(steps, outcomes, decisions, wanted, strict=True):
            measured = {place: next(scores) for place, _, _ in exams}
            cells = self._cells(step, outcome, measured, before)
            results += [replace(cell, merge=decision) if cell.taught else cell for cell in cells]
        return results

    def _adapted(self, wanted: Sequence[tuple[AdaptationPlan | None, int]]) -> list[_Outcome]:
        """Return an outcome per plan; the same plan with the same seed is trained once."""
        once = list(dict.fromkeys((plan, seed) for plan, seed in wanted if plan is not None))
        found = self.runner.inner_loop.adapt([plan for plan, _ in once], [seed for _, seed in once]) if once else []
        outcomes = dict(zip(once, found, strict=True))
        return [None if plan is None else outcomes[plan, seed] for plan, seed in wanted]

    def seed(self, step: EpisodeStep) -> int:
        """Return the inner loop's seed, the same under all conditions: the task's own, or the step's where tasks share it."""
        group = step.episode.steps[step.step - 1]
        if len(group) == 1 and not self.protocol.merges:
            return inner_seed(self.runner.seed, group[0].task_id)
        return derive_seed(self.runner.seed, "test", "episode", step.episode.index, step.step)

    def _examined(self, step: EpisodeStep) -> list[tuple[int, Task]]:
        """Return place and task of this rank's tasks that are examined after the step."""
        rank, num_ranks = self.share
        last = self.protocol.num_examined(step.episode, step.step)
        return list(enumerate(step.episode.tasks[:last]))[rank::num_ranks]

    def _exams_after(self, step: EpisodeStep, outcome: _Outcome) -> list[tuple[int, Task, Adapter | None]]:
        """Return the exams after a step, with their adapter; none where nothing has changed."""
        if isinstance(outcome, Adapted) or self.protocol.merges:
            adapter = outcome.adapter if isinstance(outcome, Adapted) and not self.protocol.merges else None
            return [(place, task, adapter) for place, task in self._examined(step)]
        return []

    def _cells(
        self,
        step: EpisodeStep,
        outcome: _Outcome,
        measured: Mapping[int, ExamScores],
        before: Mapping[tuple[int, int], ConditionResult],
    ) -> list[ConditionResult]:
        """Return a result for each task that is examined after the step."""
        episode = step.episode
        first, end = (len(episode.seen(number)) for number in (step.step - 1, step.step))
        num_examined = self.protocol.num_examined(episode, step.step)
        cells = []
        for place, task in self._examined(step):
            unadapted = before[episode.index, place].scores
            cell = result_at(step.arm, episode, step.step, place, task, measured.get(place, unadapted))
            if first <= place < end:
                cell = replace(step.planned.with_edits(cell, outcome), taught=True)
            if not is_finite(measured.get(place)):
                cell = replace(cell, scores=unadapted, failure=_NOT_FINITE, failed_edits=max(1, len(cell.edits)))
            if isinstance(outcome, Adapted) and step.planned.plan is not None:
                cell = replace(
                    cell,
                    num_steps=len(outcome.losses),
                    num_sequences=len(step.planned.plan.sequences),
                    num_tokens=outcome.num_tokens / num_examined,
                    adapt_seconds=outcome.seconds / num_examined,
                )
            cells.append(cell)
        return cells


def _merged(step: EpisodeStep, outcome: _Outcome) -> MergeDecision | None:
    """Merge what was learned, where steps merge; return the gate's decision."""
    plan = step.planned.plan
    if step.merges is None or not isinstance(outcome, Adapted) or plan is None:
        return None
    return step.merges.merge(plan, outcome.adapter)


def inner_seed(seed: int, task_id: str) -> int:
    """Return the inner loop's seed of a held-out task, the same under all conditions and in a search."""
    return derive_seed(seed, "test", task_id)
