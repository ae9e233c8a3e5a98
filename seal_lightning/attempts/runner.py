"""The one way to try edits: propose, plan, adapt, examine, judge, store.

The E-step, validation, ``seal search``, ``seal sweep``, ``seal adapt`` and ``seal replay`` all use :class:`AttemptRunner`.
It knows no domain, engine, inner loop, grader or reward by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seal_lightning.attempts.auxiliary_exams import AuxiliaryExams, Prepared, PreparedExam, stored_exams
from seal_lightning.attempts.drafts import NOTHING_MORE, DraftMaker, in_chunks
from seal_lightning.attempts.exam_runner import DomainCache, ExamRun, ExamRunner, grade_exams
from seal_lightning.attempts.judging import BackgroundCall, Judging
from seal_lightning.core import (
    AdaptationPlan,
    Adapter,
    Attempt,
    ExamPrompt,
    ExamScores,
    Measurement,
    SelfEdit,
    Task,
    Trial,
)
from seal_lightning.core.errors import RankLost, RunError, StopRequested, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Grader, InnerLoop, Reward, Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed.timers import TimeSplit
from seal_lightning.storage.attempt_store import AttemptStore

OnAttempt = Callable[[Attempt], None]


@dataclass(kw_only=True, eq=False)
class AttemptRunner:
    """Proposes edits, tries them and stores the attempts.

    ``dataclasses.replace(runner, reward=…)`` gives a runner with another part that shares everything else.
    """

    domain: AnyDomain
    writer: Writer
    engine: Engine
    """Asks the policy and its adapted copies."""
    inner_loop: InnerLoop
    grader: Grader
    reward: Reward
    """Scores attempts; only what it needs is measured."""
    seed: int
    """The run's seed; every other seed is derived from it, the round, the task, the edit and the repeat."""
    candidates_per_call: int = 48
    """≥ 1, trials that the inner loop gets at once; they are stored together."""
    time_split: TimeSplit = field(default_factory=TimeSplit)
    cache: DomainCache | None = None
    """The domain's plans and exams, where the writer shares them."""

    def __post_init__(self) -> None:
        if self.cache is None or self.cache.domain is not self.domain:
            self.cache = DomainCache(self.domain)
        self._cache = self.cache
        self._exams = ExamRunner(domain=self.domain, engine=self.engine)
        self._auxiliary = AuxiliaryExams(exams=self._exams, cache=self._cache, exam_builders=self.reward.exam_builders)
        self._drafts = DraftMaker(
            cache=self._cache,
            inner_loop=self.inner_loop,
            exams=self._exams,
            auxiliary=self._auxiliary,
            reward=self.reward,
            time_split=self.time_split,
        )
        self._judging = Judging(domain=self.domain, grader=self.grader, reward=self.reward)
        self._unstored: tuple[Callable[[], list[Attempt]], Callable[[list[Attempt]], None]] | None = None
        """Waits for a chunk that is judged while the next one is adapted, and stores its attempts."""

    # --- edits and trials

    def propose(
        self, tasks: Sequence[Task], num_edits: int, round_name: int | str, writer: Writer | None = None
    ) -> Sequence[SelfEdit]:
        """Write ``num_edits`` edits per task, task by task, by the policy or another writer.

        ``round_name`` keeps the seeds of rounds apart.
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
        """Return an edit to be tried, with the inner loop's seed derived from its names."""
        seed = self.trial_seed(task.task_id, edit.edit_index, round_index, repeat)
        return Trial(task=task, edit=edit, round=round_index, repeat=repeat, seed=seed)

    def trial_seed(self, task_id: str, edit_index: int, round_index: int, repeat: int) -> int:
        """Return the inner loop's seed of an attempt."""
        return derive_seed(self.seed, round_index, task_id, edit_index, repeat)

    def plan(self, task: Task, edit: SelfEdit) -> AdaptationPlan:
        """Return the domain's plan of an edit, made once per edit. Raises :class:`MalformedEdit`."""
        return self._cache.plan(task, edit)

    def exam(self, task: Task) -> Sequence[ExamPrompt]:
        """Return the domain's exam of a task, made once per task."""
        return self._cache.exam(task)

    # --- exams without adaptation

    def examine(
        self, candidates: Sequence[tuple[Task, Adapter | None]], needs: frozenset[Measurement]
    ) -> list[ExamScores]:
        """Return the scores of each (task, adapter or none) pair, in order; only ``needs`` is measured."""
        return self.run_exams([(task, self.exam(task), adapter) for task, adapter in candidates], needs)

    def run_exams(
        self,
        exams: Sequence[tuple[Task, Sequence[ExamPrompt], Adapter | None]],
        needs: frozenset[Measurement],
    ) -> list[ExamScores]:
        """Run exams with the given prompts and grade them, in order."""
        requests = [ExamRun(task=t, prompts=prompts, adapter=adapter, needs=needs) for t, prompts, adapter in exams]
        return grade_exams(self._exams.run(requests), self.grader)

    def before(
        self, tasks: Sequence[Task], attempts: Iterable[Attempt] = (), needs: frozenset[Measurement] = NOTHING_MORE
    ) -> dict[str, ExamScores]:
        """Return the scores of the tasks' exams without adaptation, by task id; empty where nothing is needed.

        Args:
            tasks: examined in one call.
            attempts: earlier attempts at the same policy; the scores they store are used again.
            needs: what is measured beside the reward's needs.
        """
        needs |= self.reward.needs
        if not needs:
            return {}
        wanted = {task.task_id for task in tasks}
        stored = {a.task_id: a.before for a in attempts if a.before is not None and a.task_id in wanted}
        if stored.keys() == wanted:
            return stored
        # All are examined again, although some are stored: what shares a batch moves roundings, and a resumed run must
        # end with the same bits.
        with self.time_split.spent("examine"):
            exams = self.examine([(task, None) for task in tasks], needs)
        return {task.task_id: exam for task, exam in zip(tasks, exams, strict=True)} | stored

    def auxiliary_exams(
        self, tasks: Sequence[Task], round_name: int | str, attempts: Iterable[Attempt] = ()
    ) -> dict[str, dict[str, PreparedExam]]:
        """Return the exams that the reward needs beside the tasks' own, by task id and examiner, run without adaptation.

        ``attempts`` are earlier ones of the same round; the exams they store are used again.
        """
        if not self.reward.exam_builders or not tasks:
            return {}
        seeds = {
            (name, task.task_id): derive_seed(self.seed, round_name, task.task_id, "exam", name)
            for task in tasks
            for name in self.reward.exam_builders
        }
        with self.time_split.spent("examine"):
            return self._auxiliary.prepare(tasks, seeds, stored_exams(attempts), self.grader)

    # --- attempts

    def run(
        self,
        trials: Sequence[Trial],
        store: AttemptStore | None = None,
        *,
        before: Mapping[str, ExamScores] | None = None,
        needs: frozenset[Measurement] = NOTHING_MORE,
        auxiliary: Prepared | None = None,
        on_attempt: OnAttempt = lambda attempt: None,
        candidates_per_call: int | None = None,
        only_missing: bool = False,
    ) -> list[Attempt]:
        """Try the trials that the store lacks, store each attempt, and return one attempt per trial, in order.

        Args:
            trials: with ids of their own.
            store: holds earlier attempts and gets the new ones; in memory by default.
            before: as :meth:`before` gives it for the trials' tasks; measured by default, or taken from stored attempts.
            needs: what exams measure beside the reward's needs.
            auxiliary: as :meth:`auxiliary_exams` gives it; prepared by default, round by round.
            on_attempt: called with each attempt when it was stored.
            candidates_per_call: ≥ 1, instead of the runner's own.
            only_missing: make chunks of the missing trials alone. By default all trials are cut into chunks, and a chunk
                that is partly stored is computed as a whole, so that a resumed run gives the same bits.

        Raises :class:`RunError` where the store has an attempt of another seed or edit under a trial's id. After any other
        error, what was computed before it is stored.
        """
        store = AttemptStore(None) if store is None else store
        missing = self.missing(trials, store)
        if missing:
            stored = [attempt for trial in trials if (attempt := store.get(trial.attempt_id)) is not None]
            if before is None:
                before = self.before(_tasks_of(trials), stored, needs)
            if auxiliary is None:
                auxiliary = self._auxiliary_by_round(trials, stored)
            try:
                for chunk in in_chunks(
                    missing if only_missing else trials, candidates_per_call or self.candidates_per_call
                ):
                    self.run_chunk(chunk, store, before, needs, auxiliary, on_attempt)
                self.finish()
            except Exception as error:
                self.finish_after(error)
                raise
        return [attempt for trial in trials if (attempt := store.get(trial.attempt_id)) is not None]

    @staticmethod
    def missing(trials: Sequence[Trial], store: AttemptStore) -> list[Trial]:
        """Return the trials that are not stored, in order.

        Raises :class:`RunError` where an attempt of another seed or edit is stored under a trial's id.
        """
        found = []
        for trial in trials:
            stored = store.get(trial.attempt_id)
            if stored is None:
                found.append(trial)
            elif (stored.seed, stored.edit.text) != (trial.seed, trial.edit.text):
                raise RunError(
                    f"{store.folder}: the attempt {shown(trial.attempt_id)} was made with another seed or edit: there it is "
                    f"{shown(stored.edit.text)}, now it is {shown(trial.edit.text)}. Move the folder away, or restore the "
                    "configuration it was made with"
                )
        return found

    def run_chunk(
        self,
        trials: Sequence[Trial],
        store: AttemptStore,
        before: Mapping[str, ExamScores],
        needs: frozenset[Measurement],
        auxiliary: Prepared,
        on_attempt: OnAttempt,
    ) -> None:
        """Try one chunk as a whole and store what is missing of it; nothing is done where nothing is missing.

        Where judges work in the background, the chunk is stored by the next call or by :meth:`finish`.
        """
        missing = {trial.attempt_id for trial in self.missing(trials, store)}
        if not missing:
            return

        def keep(attempts: list[Attempt]) -> None:
            for attempt in attempts:
                if attempt.attempt_id in missing:
                    on_attempt(store.add(attempt))

        unjudged = self._judging.begin(self._drafts.make(trials, before, needs, auxiliary))
        self.finish()
        if self._judging.in_background:
            self._unstored = BackgroundCall(lambda: self._judging.finish(unjudged)).result, keep
        else:
            with self.time_split.spent("judge"):
                attempts = self._judging.finish(unjudged)
            keep(attempts)

    def finish(self) -> None:
        """Wait for the judges of the last chunk and store its attempts. Raises the judges' error."""
        if self._unstored is not None:
            (wait, keep), self._unstored = self._unstored, None
            with self.time_split.spent("judge"):
                attempts = wait()
            keep(attempts)

    def finish_after(self, error: Exception) -> None:
        """Store what was computed before ``error``; a second error becomes a note of the first."""
        if isinstance(error, StopRequested | RankLost):
            return  # the process must end now
        try:
            self.finish()
        except Exception as later:  # noqa: BLE001 - the first error is the one to report
            error.add_note(f"and then, while earlier attempts were stored: {later}")

    def _auxiliary_by_round(self, trials: Sequence[Trial], stored: Sequence[Attempt]) -> Prepared:
        found: dict[str, dict[str, PreparedExam]] = {}
        for index in dict.fromkeys(trial.round for trial in trials):
            tasks = _tasks_of([trial for trial in trials if trial.round == index])
            found |= self.auxiliary_exams(tasks, index, [a for a in stored if a.round == index])
        return found


def _tasks_of(trials: Sequence[Trial]) -> list[Task]:
    return list({trial.task.task_id: trial.task for trial in trials}.values())
