"""Edits proposed and tried: the first half, which is the model's, and the two halves put together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.attempts.auxiliary_exams import AuxiliaryExams, SetExam, already_set
from seal_lightning.attempts.exam_runner import Exams, SatExam, Sitting, scores_of
from seal_lightning.attempts.judging import Computed, Draft, Judging
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    Attempt,
    AttemptStatus,
    Diverged,
    ExamPrompt,
    ExamScores,
    Measurement,
    PlanSummary,
    SelfEdit,
    Task,
    Trial,
)
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import AnyDomain, Engine, Grader, InnerLoop, Reward, Writer
from seal_lightning.core.seeds import attempt_id, derive_seed
from seal_lightning.distributed.timers import TimeSplit

NOTHING_MORE: frozenset[Measurement] = frozenset()


class AttemptRunner:
    """Proposes edits and tries them.

    Args:
        domain: what tasks and edits mean.
        writer: who writes edits.
        engine: asks the policy and its adapted copies.
        inner_loop: trains the adapted copies.
        grader: judges answers.
        reward: scores attempts, and says what must be measured.
        seed: the run's seed; with round, task, edit and repeat it makes every other seed.
    """

    def __init__(
        self,
        *,
        domain: AnyDomain,
        writer: Writer,
        engine: Engine,
        inner_loop: InnerLoop,
        grader: Grader,
        reward: Reward,
        seed: int,
    ) -> None:
        self.domain = domain
        self.writer = writer
        self.engine = engine
        self.inner_loop = inner_loop
        self.grader = grader
        self.reward = reward
        self.seed = seed
        self.time_split = TimeSplit()

    # --- what is tried

    def propose(
        self, tasks: Sequence[Task], num_edits: int, round_name: int | str, writer: Writer | None = None
    ) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task, by the policy or another writer.

        ``round_name`` keeps rounds' seeds apart.
        """
        if not tasks:
            return []
        seeds = {
            (task.task_id, index): derive_seed(self.seed, round_name, task.task_id, index)
            for task in tasks
            for index in range(num_edits)
        }
        with self.time_split.spent("propose"):
            return (writer or self.writer).write(tasks, num_edits, seeds)

    def trial(self, task: Task, edit: SelfEdit, round_index: int, repeat: int) -> Trial:
        """An edit to be tried, with the inner loop's seed made from its names."""
        seed = self.trial_seed(task.task_id, edit.edit_index, round_index, repeat)
        return Trial(task=task, edit=edit, round=round_index, repeat=repeat, seed=seed)

    def trial_seed(self, task_id: str, edit_index: int, round_index: int, repeat: int) -> int:
        """The inner loop's seed of an attempt."""
        return derive_seed(self.seed, round_index, task_id, edit_index, repeat)

    # --- exams without adaptation

    def examine(
        self, candidates: Sequence[tuple[Task, Adapter | None]], needs: frozenset[Measurement]
    ) -> list[ExamScores]:
        """The exam of each (task, adapter or none) pair, in order; only what is needed is measured."""
        return self.sit_exams([(task, self.domain.exam(task), adapter) for task, adapter in candidates], needs)

    def sit_exams(
        self,
        exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]],
        needs: frozenset[Measurement],
    ) -> list[ExamScores]:
        """Put exams' prompts to the model and have its answers judged."""
        sittings = [Sitting(task=t, prompts=prompts, adapter=adapter, needs=needs) for t, prompts, adapter in exams]
        return scores_of(self._exams.sat(sittings), self.grader)

    def before(self, tasks: Sequence[Task]) -> dict[str, ExamScores]:
        """By task id, what the reward needs of the tasks' own exams without adaptation; nothing where it needs nothing."""
        if not self.reward.needs:
            return {}
        with self.time_split.spent("examine"):
            exams = self.examine([(task, None) for task in tasks], self.reward.needs)
        return {task.task_id: exam for task, exam in zip(tasks, exams, strict=True)}

    def set_exams(
        self, tasks: Sequence[Task], round_name: int | str, attempts: Iterable[Attempt] = ()
    ) -> dict[str, dict[str, SetExam]]:
        """By task id and examiner, the exams that the reward wants beside the tasks' own, sat without adaptation.

        ``attempts`` are those of the same round: what they have stored is not made again.
        """
        if not self.reward.examiners or not tasks:
            return {}
        seeds = {
            (name, task.task_id): derive_seed(self.seed, round_name, task.task_id, "exam", name)
            for task in tasks
            for name in self.reward.examiners
        }
        with self.time_split.spent("examine"):
            return self._further.set(tasks, seeds, already_set(attempts), self.grader)

    @property
    def _exams(self) -> Exams:
        return Exams(self.domain, self.engine)

    @property
    def _further(self) -> AuxiliaryExams:
        return AuxiliaryExams(self._exams, self.reward.examiners)

    # --- trying

    def attempt(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement] = NOTHING_MORE,
        further: Mapping[str, Mapping[str, SetExam]] | None = None,
    ) -> list[Attempt]:
        """Try each edit: one attempt a trial, in order.

        ``before`` holds each task's exam without adaptation; ``needs`` is what to measure beside what the reward needs;
        ``further`` is what :meth:`set_exams` gave, which is asked now where it is not given.
        """
        return self.judged(self.compute(trials, before, needs, further))

    @property
    def judges_in_background(self) -> bool:
        """Whether :meth:`judged` waits for somebody elsewhere: then it is worth a thread of its own."""
        asked = [self.reward.needs, *(examiner.needs for examiner in self.reward.examiners.values())]
        graded = any(Measurement.ANSWERS in needs for needs in asked)
        return (graded and self.grader.in_background) or any(r.in_background for r in self.reward.raters.values())

    def compute(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement] = NOTHING_MORE,
        further: Mapping[str, Mapping[str, SetExam]] | None = None,
    ) -> Computed:
        """All of :meth:`attempt` that needs the model."""
        if further is None:
            rounds = dict.fromkeys(trial.round for trial in trials)
            further = {}
            for index in rounds:
                tasks = {trial.task.task_id: trial.task for trial in trials if trial.round == index}
                further |= self.set_exams(list(tasks.values()), index)
        needs |= self.reward.needs
        size = self.inner_loop.max_results or max(len(trials), 1)
        chunks = [trials[start : start + size] for start in range(0, len(trials), size)]
        drafts = [draft for chunk in chunks for draft in self._drafts(chunk, before, needs, further)]
        return self._judging.computed(drafts)

    def judged(self, computed: Computed) -> list[Attempt]:
        """The rest of :meth:`attempt`; where :attr:`judges_in_background`, any thread may do it."""
        return self._judging.attempts(computed)

    @property
    def _judging(self) -> Judging:
        return Judging(self.domain, self.grader, self.reward)

    def _drafts(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement],
        further: Mapping[str, Mapping[str, SetExam]],
    ) -> list[Draft]:
        plans: dict[int, AdaptationPlan] = {}
        drafts: dict[int, Draft] = {}
        for i, trial in enumerate(trials):
            set_for = further.get(trial.task.task_id, {})
            attempt = _untried(trial, before, set_for)
            drafts[i] = Draft(attempt=attempt, task=trial.task)
            try:
                plans[i] = trial.plan or self.domain.plan(trial.task, trial.edit)
            except MalformedEdit as error:
                drafts[i] = _settled(drafts[i], AttemptStatus.MALFORMED, str(error))
                continue
            if (
                missing := next((exam.paper.failure for exam in set_for.values() if exam.paper.failure), None)
            ) is not None:
                del plans[i]
                drafts[i] = _settled(drafts[i], AttemptStatus.UNSCORED, missing)
        if needs or self.reward.adapts:
            self._learn(trials, plans, drafts, needs, further)
        return [drafts[i] for i in range(len(trials))]

    def _learn(
        self,
        trials: Sequence[Trial],
        plans: Mapping[int, AdaptationPlan],
        drafts: dict[int, Draft],
        needs: frozenset[Measurement],
        further: Mapping[str, Mapping[str, SetExam]],
    ) -> None:
        """Adapt on each plan, examine what came of it, and tell the drafts."""
        with self.time_split.spent("adapt"):
            outcomes = self.inner_loop.adapt(list(plans.values()), [trials[i].seed for i in plans])
        adapted: dict[int, Adapter] = {}
        for (i, plan), outcome in zip(plans.items(), outcomes, strict=True):
            num_tokens = outcome.num_tokens if isinstance(outcome, Adapted) else 0
            made = replace(drafts[i].attempt, plan=_summary(plan, num_tokens), adapt_seconds=outcome.seconds)
            drafts[i] = replace(drafts[i], attempt=made)
            if isinstance(outcome, Diverged):
                drafts[i] = _settled(drafts[i], AttemptStatus.DIVERGED, outcome.reason)
            else:
                adapted[i] = outcome.adapter
                drafts[i] = replace(drafts[i], attempt=replace(made, final_loss=outcome.losses[-1]))
        start = time.perf_counter()
        sittings = [self._sittings(trials[i].task, adapter, needs, further) for i, adapter in adapted.items()]
        with self.time_split.spent("examine"):
            exams = self._exams.sat_where_it_fits(sittings)
        seconds = (time.perf_counter() - start) / max(len(adapted), 1)
        for i, sat in zip(adapted, exams, strict=True):
            if sat is None:
                failed = replace(drafts[i], attempt=replace(drafts[i].attempt, final_loss=None))
                drafts[i] = _settled(failed, AttemptStatus.DIVERGED, "out of memory in the exam")
            else:
                made = replace(drafts[i].attempt, examine_seconds=seconds)
                set_for = further.get(trials[i].task.task_id, {})
                drafts[i] = _examined(replace(drafts[i], attempt=made), sat, bool(needs), set_for)

    def _sittings(
        self,
        task: Task,
        adapter: Adapter,
        needs: frozenset[Measurement],
        further: Mapping[str, Mapping[str, SetExam]],
    ) -> list[Sitting]:
        """The task's own exam where anything of it is needed, and the further ones."""
        own = [Sitting(task=task, prompts=self.domain.exam(task), adapter=adapter, needs=needs)] if needs else []
        for name, exam in further.get(task.task_id, {}).items():
            own += self._further.sittings(self.reward.examiners[name], exam.paper, adapter)
        return own


def _examined(draft: Draft, sat: Sequence[SatExam], with_own: bool, set_for: Mapping[str, SetExam]) -> Draft:
    rest = iter(sat)
    own = next(rest) if with_own else None
    further = {name: (exam.paper, [next(rest) for _ in exam.paper.tasks]) for name, exam in set_for.items()}
    return replace(draft, own=own, further=further)


def _settled(draft: Draft, status: AttemptStatus, failure: str) -> Draft:
    return replace(draft, settled=True, attempt=replace(draft.attempt, status=status, failure=failure))


def _untried(trial: Trial, before: Mapping[str, ExamScores], set_for: Mapping[str, SetExam]) -> Attempt:
    return Attempt(
        attempt_id=attempt_id(trial.round, trial.task.task_id, trial.edit.edit_index, trial.repeat),
        round=trial.round,
        repeat=trial.repeat,
        seed=trial.seed,
        edit=trial.edit,
        status=AttemptStatus.SCORED,
        before=before.get(trial.task.task_id),
        auxiliary_exams={name: exam.stored for name, exam in set_for.items()},
    )


def _summary(plan: AdaptationPlan, num_tokens: int) -> PlanSummary:
    return PlanSummary(
        num_sequences=len(plan.sequences),
        num_steps=plan.num_steps,
        num_tokens=num_tokens,
        learning_rate=plan.optimizer.learning_rate,
        rank=plan.adapter.rank,
        dropped_sequences=plan.dropped_sequences,
    )
