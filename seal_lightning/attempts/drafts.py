"""The first half of an attempt, which is the model's: plan an edit, adapt on the plan, run the exams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from seal_lightning.attempts.auxiliary_exams import AuxiliaryExams, Prepared, PreparedExam
from seal_lightning.attempts.exam_runner import DomainCache, ExamAnswers, ExamRun, ExamRunner, paper_scores
from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    Adapter,
    Attempt,
    AttemptStatus,
    AuxiliaryExam,
    ExamRequest,
    ExamScores,
    Measurement,
    PlanSummary,
    Task,
    Trial,
    Verdict,
)
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import InnerLoop, Reward
from seal_lightning.distributed.timers import TimeSplit

ItemT = TypeVar("ItemT")

NOTHING_MORE: frozenset[Measurement] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An attempt whose exams have run but are not yet graded."""

    attempt: Attempt
    task: Task
    failed: bool = False
    """Whether there is nothing to judge."""
    own: ExamAnswers | None = None
    """The task's own exam, where the reward needs it."""
    auxiliary: Mapping[str, tuple[ExamRequest, Sequence[ExamAnswers]]] = field(default_factory=dict)
    """By examiner."""

    @property
    def exams(self) -> list[ExamAnswers]:
        """All exams in a fixed order: the own one first."""
        own = [self.own] if self.own is not None else []
        return own + [exam for _, answers in self.auxiliary.values() for exam in answers]

    def with_scores(self, verdicts: Sequence[Sequence[Verdict]]) -> Attempt:
        """Return the attempt with its scores; ``verdicts`` are by exam, in the order of :attr:`exams`."""
        scores = iter([exam.scores(given) for exam, given in zip(self.exams, verdicts, strict=True)])
        attempt = self.attempt if self.own is None else replace(self.attempt, after=next(scores))
        exams: dict[str, AuxiliaryExam] = dict(attempt.auxiliary_exams)
        for name, (paper, answers) in self.auxiliary.items():
            exams[name] = replace(exams[name], after=paper_scores(paper, [next(scores) for _ in answers]))
        return replace(attempt, auxiliary_exams=exams)


@dataclass(frozen=True, kw_only=True)
class DraftMaker:
    """Tries edits up to the model's answers."""

    cache: DomainCache
    inner_loop: InnerLoop
    exams: ExamRunner
    auxiliary: AuxiliaryExams
    reward: Reward
    """Says what is measured."""
    time_split: TimeSplit

    def make(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement],
        auxiliary: Prepared,
    ) -> list[Draft]:
        """Return one draft per trial, in order; ``needs`` is what is measured beside the reward's needs."""
        needs |= self.reward.needs
        size = self.inner_loop.max_results or len(trials)
        return [
            draft for chunk in in_chunks(trials, size) for draft in self._make_chunk(chunk, before, needs, auxiliary)
        ]

    def _make_chunk(
        self,
        trials: Sequence[Trial],
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement],
        auxiliary: Prepared,
    ) -> list[Draft]:
        plans: dict[int, AdaptationPlan] = {}
        drafts: list[Draft] = []
        for i, trial in enumerate(trials):
            prepared = auxiliary.get(trial.task.task_id, {})
            drafts.append(Draft(attempt=_new_attempt(trial, before, prepared), task=trial.task))
            missing_exam = next((exam.paper.failure for exam in prepared.values() if exam.paper.failure), None)
            try:
                plan = trial.plan or self.cache.plan(trial.task, trial.edit)
            except MalformedEdit as error:
                drafts[i] = _failed(drafts[i], AttemptStatus.MALFORMED, str(error))
            else:
                if missing_exam is None:
                    plans[i] = plan
                else:
                    drafts[i] = _failed(drafts[i], AttemptStatus.UNSCORED, missing_exam)
        if needs or self.reward.adapts:
            adapters = self._adapt(trials, plans, drafts)
            self._examine(trials, adapters, drafts, needs, auxiliary)
        return drafts

    def _adapt(
        self, trials: Sequence[Trial], plans: Mapping[int, AdaptationPlan], drafts: list[Draft]
    ) -> dict[int, Adapter]:
        """Train an adapter on each plan and note in the drafts how that ended."""
        with self.time_split.spent("adapt"):
            outcomes = self.inner_loop.adapt(list(plans.values()), [trials[i].seed for i in plans])
        adapters: dict[int, Adapter] = {}
        for (i, plan), outcome in zip(plans.items(), outcomes, strict=True):
            num_tokens = outcome.num_tokens if isinstance(outcome, Adapted) else 0
            summary = _summary(plan, num_tokens)
            attempt = replace(drafts[i].attempt, plan=summary, adapt_seconds=outcome.seconds)
            if isinstance(outcome, Adapted):
                adapters[i] = outcome.adapter
                drafts[i] = replace(drafts[i], attempt=replace(attempt, final_loss=outcome.losses[-1]))
            else:
                drafts[i] = _failed(replace(drafts[i], attempt=attempt), AttemptStatus.DIVERGED, outcome.reason)
        return adapters

    def _examine(
        self,
        trials: Sequence[Trial],
        adapters: Mapping[int, Adapter],
        drafts: list[Draft],
        needs: frozenset[Measurement],
        auxiliary: Prepared,
    ) -> None:
        """Examine the adapted models and put their answers into the drafts."""
        start = time.perf_counter()
        requests = [list(self._requests(trials[i].task, adapters[i], needs, auxiliary)) for i in adapters]
        with self.time_split.spent("examine"):
            exams = self.exams.run_within_memory(requests)
        seconds = (time.perf_counter() - start) / max(len(adapters), 1)
        for i, answers in zip(adapters, exams, strict=True):
            attempt = drafts[i].attempt
            if answers is None:
                unfinished = replace(drafts[i], attempt=replace(attempt, final_loss=None))
                drafts[i] = _failed(unfinished, AttemptStatus.DIVERGED, "out of memory in the exam")
                continue
            draft = replace(drafts[i], attempt=replace(attempt, examine_seconds=seconds))
            drafts[i] = _with_answers(draft, answers, bool(needs), auxiliary.get(trials[i].task.task_id, {}))

    def _requests(
        self, task: Task, adapter: Adapter, needs: frozenset[Measurement], auxiliary: Prepared
    ) -> Iterator[ExamRun]:
        """Yield the task's own exam, where anything of it is needed, then the auxiliary ones."""
        if needs:
            yield ExamRun(task=task, prompts=self.cache.exam(task), adapter=adapter, needs=needs)
        for name, exam in auxiliary.get(task.task_id, {}).items():
            yield from self.auxiliary.requests(self.reward.exam_builders[name], exam.paper, adapter)


def in_chunks(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    """Yield the items in order, ``size`` ≥ 1 at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _with_answers(
    draft: Draft, answers: Sequence[ExamAnswers], with_own: bool, prepared: Mapping[str, PreparedExam]
) -> Draft:
    rest = iter(answers)
    own = next(rest) if with_own else None
    auxiliary = {name: (exam.paper, [next(rest) for _ in exam.paper.tasks]) for name, exam in prepared.items()}
    return replace(draft, own=own, auxiliary=auxiliary)


def _failed(draft: Draft, status: AttemptStatus, failure: str) -> Draft:
    return replace(draft, failed=True, attempt=replace(draft.attempt, status=status, failure=failure))


def _new_attempt(trial: Trial, before: Mapping[str, ExamScores], prepared: Mapping[str, PreparedExam]) -> Attempt:
    return Attempt(
        attempt_id=trial.attempt_id,
        round=trial.round,
        repeat=trial.repeat,
        seed=trial.seed,
        edit=trial.edit,
        status=AttemptStatus.SCORED,
        before=before.get(trial.task.task_id),
        auxiliary_exams={name: exam.record for name, exam in prepared.items()},
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
