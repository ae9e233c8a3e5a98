"""Evaluation of held-out tasks: episodes of adapting and examining, under every condition of a test.

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
from seal_lightning.evaluation.protocols import Episode, Protocol, SinglePassage
from seal_lightning.evaluation.reference_exams import EVERYTHING, ReferenceExams
from seal_lightning.evaluation.steps import EpisodeMerges, EpisodeStep, StepRunner
from seal_lightning.evaluation.training_sets import StepPlan, joined_plan, mean_steps, plan_alone
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models.language_model import LanguageModel

Place = tuple[int, int]
"""An episode and one of its steps."""


class Evaluation:
    """Examines tasks under the conditions of one policy round after another.

    Args:
        runner: writes edits, trains adapters and runs exams.
        protocol: makes the episodes.
        num_edits: ≥ 1, self-edits per held-out task (5 in the paper for ARC, §4.2); tried one by one (scores are means over
            them) or, where the protocol joins them, together.
        conditions: those to examine; the unadapted model is always examined, and the step-matched control only beside
            the self-edits whose steps it takes.
        writers: other writers of edits by name, each a condition of its own.
        adapters: outside adapters by name, each a condition of its own.
        learner: the model that learns; needed where steps are merged.
        share: this rank's part of the tasks, (rank, number of ranks), where ranks share episodes.
        gather: concatenates the ranks' lists there; a collective.
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
        self._exams = ReferenceExams(runner, self.share, needs)
        self._steps = StepRunner(runner, self.protocol, self.share, needs)
        self.final_edit_steps: dict[Place, int] = {}
        for mitigation in self.protocol.against_forgetting:
            assert learner is not None, "to merge, the learner must be known"
            mitigation.bind(runner, learner)

    # --- conditions

    def learning_arms(self, round_index: int) -> list[Arm]:
        """Return the conditions under which a policy round's episodes adapt, without the step-matched control."""
        arms = []
        if Condition.SELF_EDIT in self.conditions:
            arms.append(Arm(condition=Condition.SELF_EDIT, round=round_index))
        if round_index == 0:
            if Condition.WITHOUT_EDIT in self.conditions:
                arms.append(Arm(condition=Condition.WITHOUT_EDIT, round=0))
            arms += [Arm(condition=Condition.OTHER_WRITER, round=0, name=name) for name in self.writers]
        return arms

    def all_arms(self, rounds: Collection[int]) -> list[Arm]:
        """Return every condition that adapts, over the policy rounds that are examined."""
        return [arm for r in sorted(rounds) for arm in (*self.learning_arms(r), *self.matched_arms(r, max(rounds)))]

    def matched_arms(self, round_index: int, final_round: int) -> list[Arm]:
        """Return the step-matched control, for the pretrained and the final policy."""
        wanted = {Condition.WITHOUT_EDIT_MATCHED, Condition.SELF_EDIT} <= {*self.conditions}
        return [Arm(condition=Condition.WITHOUT_EDIT_MATCHED, round=round_index)] * (
            wanted and round_index in (0, final_round)
        )

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise :class:`DataError` where these tasks cannot be tested, before anything is computed.

        Another writer lacks edits of them, or a mitigation preserves a text that is to be learned.
        """
        for mitigation in self.protocol.against_forgetting:
            mitigation.check(tasks)
        for writer in self.writers.values():
            writer.check(tasks, writer.num_edits or self.num_edits)

    def examine_episodes(
        self, episodes: Sequence[Episode], round_index: int, final_round: int
    ) -> list[ConditionResult]:
        """Examine episodes under all conditions of a policy round. The final round must come first: it sets matched steps.

        The pretrained policy is examined under every condition, trained ones under their own self-edits. The final one gets
        the step-matched context too, which separates the M-step's effect on the policy from the edit's.
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
        """Run the episodes under some conditions: all in one call, or one after another where steps merge."""
        if not self.protocol.merges:
            steps = [step for arm in arms for step in self._planned(arm, episodes, 1, max_steps, None)]
            return self._steps.run(steps, before)
        assert self.learner is not None, "to merge, the learner must be known"
        results = []
        for arm in arms:
            for episode in episodes:
                merges = EpisodeMerges(self.learner, self.protocol.against_forgetting)
                with scratch_weights(self.learner):
                    for number in range(1, len(episode.steps) + 1):
                        steps = self._planned(arm, [episode], number, max_steps, merges)
                        results += self._steps.run(steps, before)
        return results

    def _planned(
        self,
        arm: Arm,
        episodes: Sequence[Episode],
        number: int,
        max_steps: Mapping[Place, int] | None,
        merges: EpisodeMerges | None,
    ) -> list[EpisodeStep]:
        """Return the given step of the episodes with their plans; edits are written now, by the model as it is."""
        groups = {episode.index: episode.steps[number - 1] for episode in episodes}
        tasks = list({task.task_id: task for group in groups.values() for task in group}.values())
        # A passage of several sequences gets other edits in each: they are to be independent observations.
        edits = self._edits(arm, tasks, f"test {episodes[0].index}" if self.protocol.merges else "test")
        change = self.protocol.plan
        steps = []
        for episode in episodes:
            of_group = [(task, edits[task.task_id]) for task in groups[episode.index]]
            if self.protocol.joins_edits or edits[of_group[0][0].task_id] is None:
                planned = [joined_plan(self.runner.domain, of_group, change)]
            else:
                given = [(task, edit) for task, found in of_group for edit in found or ()]
                planned = [plan_alone(self.runner.domain, task, edit, change) for task, edit in given]
            limit = None if max_steps is None else max_steps.get((episode.index, number))
            for one in planned:
                step = EpisodeStep(arm, episode, number, one, merges)
                steps.append(replace(step, planned=self._mitigated(step).limited(limit)))
        return steps

    def _mitigated(self, step: EpisodeStep) -> StepPlan:
        """Return the step's plan with the changes of the mitigations."""
        merges = step.merges
        if merges is None:
            return step.planned
        return step.planned.adapted(lambda plan: merges.prepared(plan, self._steps.seed(step)))

    def _edits(self, arm: Arm, tasks: Sequence[Task], round_name: str) -> dict[str, list[SelfEdit] | None]:
        """Return the edits of each task; None where the condition has no edits."""
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
        """Return the context alone for the final edits' steps; a run with as many steps is reused."""
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
