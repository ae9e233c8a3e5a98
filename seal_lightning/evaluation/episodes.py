"""The one way to evaluate: episodes of adapting and examining, under every condition a test has.

Same questions, same inner seeds under all conditions. The control that matters is the context alone for as many optimiser
steps as the edits get: more steps alone raise scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    Adapter,
    Measurement,
    SelfEdit,
    Task,
)
from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult
from seal_lightning.core.interfaces import Writer
from seal_lightning.evaluation.merging import Merging
from seal_lightning.evaluation.protocols import Episode, Protocol, SinglePassage
from seal_lightning.evaluation.steps import Job, Steps
from seal_lightning.evaluation.training_sets import StepPlan, joined_plan, mean_steps, plan_alone
from seal_lightning.evaluation.unadapted_exams import EVERYTHING, ExamsWithoutLearning
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models.language_model import LanguageModel

Place = tuple[int, int]
"""An episode and one of its steps."""


class Evaluation:
    """Examines tasks under the conditions of one policy round after another, some episodes at a time.

    Args:
        runner: how edits are proposed and tried.
        protocol: what an episode is.
        num_edits: ≥ 1, self-edits a held-out task (5 in the paper for ARC, §4.2); tried one by one (scores are means over
            them) or, where the protocol joins them, together.
        conditions: which of them to meet; the unadapted model is always examined, and the step-matched control only beside
            the self-edits whose steps it takes.
        writers: further writers of edits by name, each a condition of its own.
        adapters: ready adapters from outside by name, each a condition of its own.
        learner: the model that learns; needed where steps are merged.
        share: which part of the tasks is this rank's, (rank, number of ranks), where ranks share episodes.
        gather: joins the ranks' lists there; a collective.
        needs: what exams measure.
    """

    def __init__(
        self,
        runner: AttemptRunner,
        protocol: Protocol | None = None,
        num_edits: int = 1,
        conditions: Collection[str] = tuple(Condition),
        writers: Mapping[str, Writer] | None = None,
        adapters: Mapping[str, Adapter] | None = None,
        learner: LanguageModel | None = None,
        share: tuple[int, int] = (0, 1),
        gather: Callable[[list[SelfEdit]], list[SelfEdit]] = list,
        needs: frozenset[Measurement] = EVERYTHING,
    ) -> None:
        self.runner = runner
        self.protocol = protocol or SinglePassage()
        self.num_edits = num_edits
        self.conditions = conditions
        self.writers = dict(writers or {})
        self.adapters = dict(adapters or {})
        self.learner = learner
        self.share = share if self.protocol.spread else (0, 1)
        self.gather = gather
        self._exams = ExamsWithoutLearning(runner, self.share, needs)
        self._steps = Steps(runner, self.protocol, self.share, needs)
        self.final_edit_steps: dict[Place, int] = {}
        for mitigation in self.protocol.against_forgetting:
            assert learner is not None, "to merge, the learner must be known"
            mitigation.bind(runner, learner)

    # --- what is met

    def learning_arms(self, round_index: int) -> list[Arm]:
        """The conditions under which a policy round's episodes adapt, the step-matched control aside."""
        arms = []
        if Condition.SELF_EDIT in self.conditions:
            arms.append(Arm(condition=Condition.SELF_EDIT, round=round_index))
        if round_index == 0:
            if Condition.WITHOUT_EDIT in self.conditions:
                arms.append(Arm(condition=Condition.WITHOUT_EDIT, round=0))
            arms += [Arm(condition=Condition.OTHER_WRITER, round=0, name=name) for name in self.writers]
        return arms

    def all_arms(self, rounds: Collection[int]) -> list[Arm]:
        """Every condition under which anything is learned, over the policy rounds that are examined."""
        return [arm for r in sorted(rounds) for arm in (*self.learning_arms(r), *self.matched_arms(r, max(rounds)))]

    def matched_arms(self, round_index: int, final_round: int) -> list[Arm]:
        """The step-matched control, for the pretrained and the final policy."""
        wanted = {Condition.WITHOUT_EDIT_MATCHED, Condition.SELF_EDIT} <= {*self.conditions}
        return [Arm(condition=Condition.WITHOUT_EDIT_MATCHED, round=round_index)] * (
            wanted and round_index in (0, final_round)
        )

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise :class:`DataError` where these tasks cannot be met; nothing is computed.

        Another writer has no edits of them, or a measure against forgetting holds on to one that is to be learned.
        """
        for mitigation in self.protocol.against_forgetting:
            mitigation.check(tasks)
        for writer in self.writers.values():
            writer.check(tasks, writer.num_edits or self.num_edits)

    def examine_episodes(
        self, episodes: Sequence[Episode], round_index: int, final_round: int
    ) -> list[ConditionResult]:
        """All conditions of a policy round on some episodes. The final round must come first: it sets the matched steps.

        The pretrained policy meets every condition; trained ones their own self-edits, and the final one the
        step-matched context too, so that what the M-step did to the policy itself is not taken for the edit's work.
        """
        if not episodes:
            return []
        before = self._exams.before(episodes, round_index)
        results = list(before.values())
        if round_index == 0:
            results += self._exams.references(episodes, self.conditions, self.adapters)
        learned = self._learned(episodes, self.learning_arms(round_index), before)
        results += learned
        if round_index == final_round:
            self.final_edit_steps |= mean_steps(learned)
        for arm in self.matched_arms(round_index, final_round):
            results += self._matched(episodes, arm, before, learned)
        return results

    # --- learning

    def _learned(
        self,
        episodes: Sequence[Episode],
        arms: Sequence[Arm],
        before: Mapping[tuple[int, int], ConditionResult],
        max_steps: Mapping[Place, int] | None = None,
    ) -> list[ConditionResult]:
        """The episodes under some conditions: side by side in one call, or, where steps merge, one after another."""
        if not self.protocol.merges:
            jobs = [job for arm in arms for job in self._jobs(arm, episodes, 1, max_steps, None)]
            return self._steps.taken(jobs, before)
        assert self.learner is not None, "to merge, the learner must be known"
        results = []
        for arm in arms:
            for episode in episodes:
                merging = Merging(self.learner, self.protocol.against_forgetting)
                with scratch_weights(self.learner):
                    for step in range(1, len(episode.steps) + 1):
                        jobs = self._jobs(arm, [episode], step, max_steps, merging)
                        results += self._steps.taken(jobs, before)
        return results

    def _jobs(
        self,
        arm: Arm,
        episodes: Sequence[Episode],
        step: int,
        max_steps: Mapping[Place, int] | None,
        merging: Merging | None,
    ) -> list[Job]:
        """What the episodes' given step adapts on; edits are written now, by the model as it now is."""
        groups = {episode.index: episode.steps[step - 1] for episode in episodes}
        tasks = list({task.task_id: task for group in groups.values() for task in group}.values())
        # A passage that several sequences have gets other edits in each: they are to be independent observations.
        edits = self._edits(arm, tasks, f"test {episodes[0].index}" if self.protocol.merges else "test")
        change = self.protocol.plan
        jobs = []
        for episode in episodes:
            of_group = [(task, edits[task.task_id]) for task in groups[episode.index]]
            if self.protocol.joins_edits or edits[of_group[0][0].task_id] is None:
                planned = [joined_plan(self.runner.domain, of_group, change)]
            else:
                given = [(task, edit) for task, found in of_group for edit in found or ()]
                planned = [plan_alone(self.runner.domain, task, edit, change) for task, edit in given]
            limit = None if max_steps is None else max_steps.get((episode.index, step))
            for one in planned:
                job = Job(arm, episode, step, one, merging)
                jobs.append(replace(job, planned=self._prepared(job).limited(limit)))
        return jobs

    def _prepared(self, job: Job) -> StepPlan:
        """The job's plan with what is done against forgetting while it is learned."""
        merging = job.merging
        if merging is None:
            return job.planned
        return job.planned.adapted(lambda plan: merging.prepared(plan, self._steps.seed(job)))

    def _edits(self, arm: Arm, tasks: Sequence[Task], round_name: str) -> dict[str, list[SelfEdit] | None]:
        """The edits of each task; None where the condition has none."""
        if arm.condition not in (Condition.SELF_EDIT, Condition.OTHER_WRITER):
            return {task.task_id: None for task in tasks}
        rank, num_ranks = self.share
        writer = self.writers.get(arm.name)
        num_edits = (writer and writer.num_edits) or self.num_edits
        edits = list(self.runner.propose(tasks[rank::num_ranks], num_edits, round_name, writer))
        if num_ranks > 1:
            edits = self.gather(edits)
        found: dict[str, list[SelfEdit] | None] = {task.task_id: [] for task in tasks}
        for edit in edits:
            of_task = found[edit.task_id]
            assert of_task is not None
            of_task.append(edit)
        return found

    def _matched(
        self,
        episodes: Sequence[Episode],
        arm: Arm,
        before: Mapping[tuple[int, int], ConditionResult],
        learned: Sequence[ConditionResult],
    ) -> list[ConditionResult]:
        """The context alone for the final edits' steps; where it got as many before, the same run is not made again."""
        same: dict[int, list[ConditionResult]] = {}
        if not self.protocol.merges:
            for result in learned:
                as_many = result.num_steps == self.final_edit_steps.get((result.sequence, result.step))
                if result.condition is Condition.WITHOUT_EDIT and result.failure is None and as_many:
                    same.setdefault(result.sequence, []).append(result)
        others = [episode for episode in episodes if episode.index not in same]
        results = [replace(r, condition=arm.condition) for found in same.values() for r in found]
        results += self._learned(others, [arm], before, self.final_edit_steps)
        return sorted(results, key=lambda r: (r.sequence, r.step, r.place))
