"""The E-step of one batch of tasks: write self-edits, try each in the inner loop, store every attempt.

Only this file uses Lightning's private ``_Loop``: attached below the trainer's loops, its progress is saved and restored
with every checkpoint. ``tests/training/test_loop.py`` checks what it relies on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress

from seal_lightning.attempts.auxiliary_exams import Prepared
from seal_lightning.attempts.drafts import NOTHING_MORE
from seal_lightning.attempts.runner import AttemptRunner, OnAttempt
from seal_lightning.core import Attempt, ExamScores, SelfEdit, Task
from seal_lightning.core.errors import RankLost, RunError, StopRequested
from seal_lightning.core.seeds import attempt_id
from seal_lightning.distributed import interruption
from seal_lightning.distributed.coordination import silence_timeout_s
from seal_lightning.distributed.work_queue import WorkQueue, call_sizes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import TaskBatch

_POLL_INTERVAL_S = 0.05
_VISIBLE_WITHIN_S = 30.0
"""Time for one host's files to show on another: network file systems cache for seconds that a file is missing."""

_Slot = tuple[Task, int, int]
"""A task, an edit index and a repeat: a trial whose edit may not be written yet."""


@dataclass(frozen=True, kw_only=True)
class _Written:
    """The inputs of a batch's attempts, written once by the rank that owns the batch."""

    edits: Mapping[tuple[str, int], SelfEdit]
    before: Mapping[str, ExamScores]
    auxiliary: Prepared


class SelfEditLoop(_Loop):
    """The inner self-edit adaptation, batch by batch of the E-step.

    Args:
        trainer: the trainer whose loops this loop belongs to.
        runner: proposes and tries edits; a kill loses at most the ``candidates_per_call`` trials in progress, and as many
            again where a judge in the background is queried about them meanwhile.
        num_edits: k, self-edits per task.
        num_repeats: inner seeds per edit.
        num_ranks: ranks that share the work.
        open_store: returns a round's stored attempts; by default they are kept in memory only.
    """

    def __init__(
        self,
        trainer: Trainer,
        runner: AttemptRunner,
        num_edits: int,
        num_repeats: int,
        num_ranks: int = 1,
        open_store: Callable[[int], AttemptStore] = lambda round_index: AttemptStore(None),
    ) -> None:
        super().__init__(trainer)
        self.runner = runner
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.num_ranks = num_ranks
        self.open_store = open_store
        self.attempt_progress = _Progress()
        self.store = AttemptStore(None)
        self.reports_stored = True
        """Whether this rank reports, when attempts are gathered, what was stored before this launch."""
        self._round = -1
        self._others: list[TaskBatch] = []
        """Batches of this round, so far, that other ranks own."""
        self._work: WorkQueue = None  # type: ignore[assignment]  # made when the ranks have met

    def attach(self) -> None:
        """Attach to the trainer's epoch loop, so that Lightning saves and restores this loop's progress; once."""
        epoch_loop = self.trainer.fit_loop.epoch_loop
        epoch_loop.self_edit_loop = self
        # Lightning 2.6 has all ranks wait for rank 0 before each batch, to pass on its SIGTERM. In the E-step no rank waits
        # for another, and GracefulStop handles signals on any rank.
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def run(self, batch: TaskBatch, round_index: int, on_attempt: OnAttempt, *, is_last: bool = True) -> None:
        """Make every attempt of a batch that is not stored and that no other rank makes.

        Called with each of the epoch's batches, on every rank. The first rank to take a batch writes its edits and begins to
        try them; with the last batch (``is_last``), a rank that is free helps the others. ``on_attempt`` is called with each
        attempt that is stored here. Where judges work in the background, the last chunk is stored by the next call, or by
        :meth:`finish`.

        Raises :class:`RunError` when an attempt was stored with another seed: it belongs to another run.
        """
        if self._round != round_index:
            self._begin_round(round_index)
        try:
            with self.runner.time_split.spent("communicate"):
                owned = self._work.take(self._name(batch)) == 0
            if owned:
                self._own(batch, on_attempt)
            else:
                self._others.append(batch)
            if is_last:
                self._help(on_attempt)
        except (StopRequested, RankLost):
            raise
        except Exception as error:
            interruption.report_failure(
                error
            )  # before the judges are waited for: the other ranks must not wait for them too
            self.runner.finish_after(error)
            raise

    def finish(self) -> None:
        """Wait for the judges and store the last chunk's attempts. Raises the judges' error."""
        self.runner.finish()

    def close(self) -> None:
        """Release this rank's journal and its connection to the other ranks."""
        self.store.close()
        if self._work is not None:
            self._work.close()

    # --- the start of a round

    def _begin_round(self, round_index: int) -> None:
        self.finish()
        self.store.close()
        self.store, self._round, self._others = self.open_store(round_index), round_index, []
        if self._work is None:
            self._work = WorkQueue.of_run(self.num_ranks, silence_timeout_s(self.trainer.strategy))
        self._check_seeds()
        with self.runner.time_split.spent("communicate"):
            self._agree_on_stored()

    def _check_seeds(self) -> None:
        for attempt in self.store.all():
            seed = self.runner.trial_seed(attempt.task_id, attempt.edit.edit_index, self._round, attempt.repeat)
            if attempt.seed != seed:
                raise RunError(
                    f"{self.store.folder}: the attempt {attempt.attempt_id} was made with another seed than model.seed "
                    "gives. Resume with the seed the run was started with, or start a new run in another directory "
                    "(--run_dir)"
                )

    def _agree_on_stored(self) -> None:
        """Restrict the store to what the first rank sees: a network file system may show it later to others."""
        name = f"round {self._round}/stored"
        self.reports_stored = self._work.take(name) == 0
        if self.reports_stored:
            self._work.publish(name, sorted(attempt.attempt_id for attempt in self.store.all()))
        elif self._work.num_ranks > 1:
            while not self._work.is_published(name):
                interruption.check()
                time.sleep(_POLL_INTERVAL_S)
            stored = self._work.fetch(name)
            deadline = time.monotonic() + _VISIBLE_WITHIN_S
            while not self.store.restrict_to(stored) and time.monotonic() < deadline:
                interruption.check()
                time.sleep(_POLL_INTERVAL_S)
                self.store.close()
                self.store = self.open_store(self._round)
            if not self.store.restrict_to(stored):
                raise RunError(
                    f"{self.store.folder}: another rank sees attempts there that this one does not see within "
                    f"{_VISIBLE_WITHIN_S:.0f} s. Put the run directory (--run_dir) on a file system that all ranks share, "
                    "and resume with `seal fit --resume RUN`"
                )
        self._work.drop(name)

    # --- batches and their chunks

    def _own(self, batch: TaskBatch, on_attempt: OnAttempt) -> None:
        """Write a batch's edits, share them, and try them as long as other ranks leave some."""
        chunks = self._chunks(batch)
        ids = (
            attempt_id(self._round, task.task_id, index, repeat) for chunk in chunks for task, index, repeat in chunk
        )
        # Edits are written for the whole batch even where few are missing: what shares a batch moves roundings, and a
        # resumed run must end with the same bits.
        written = self._write(batch) if any(self.store.get(name) is None for name in ids) else None
        with self.runner.time_split.spent("communicate"):
            self._work.publish(self._name(batch), written)
        self._try(batch, chunks, on_attempt)

    def _write(self, batch: TaskBatch) -> _Written:
        stored = self.store.all()
        edits = {(e.task_id, e.edit_index): e for e in self.runner.propose(batch.tasks, self.num_edits, self._round)}
        edits |= {key: a.edit for a in stored if (key := (a.task_id, a.edit.edit_index)) in edits}
        before = self.runner.before(batch.tasks, stored)
        return _Written(
            edits=edits, before=before, auxiliary=self.runner.auxiliary_exams(batch.tasks, self._round, stored)
        )

    def _help(self, on_attempt: OnAttempt) -> None:
        """Try what is left of other ranks' batches; wait where their edits are still being written."""
        unfinished = self._others[::-1]  # the batches begun last have most left
        while unfinished:
            with self.runner.time_split.spent("communicate"):
                ready = [batch for batch in unfinished if self._work.is_published(self._name(batch))]
            for batch in ready:
                self._try(batch, self._chunks(batch), on_attempt)
            unfinished = [batch for batch in unfinished if batch not in ready]
            if unfinished and not ready:
                with self.runner.time_split.spent("idle"):
                    interruption.check()
                    time.sleep(_POLL_INTERVAL_S)

    def _try(self, batch: TaskBatch, chunks: list[list[_Slot]], on_attempt: OnAttempt) -> None:
        """Try chunks of a batch whose edits are written, until none is left."""

        def count(attempt: Attempt) -> None:
            for step in ("ready", "started", "processed", "completed"):
                getattr(self.attempt_progress, f"increment_{step}")()
            on_attempt(attempt)

        while (chunk := self._next(batch, chunks)) is not None:
            slots, written = chunk
            if written is not None:
                trials = [
                    self.runner.trial(task, written.edits[task.task_id, index], self._round, repeat)
                    for task, index, repeat in slots
                ]
                self.runner.run_chunk(trials, self.store, written.before, NOTHING_MORE, written.auxiliary, count)

    def _next(self, batch: TaskBatch, chunks: list[list[_Slot]]) -> tuple[list[_Slot], _Written | None] | None:
        """Take a chunk that no rank has, with what was written for its batch; None when there is none."""
        name = self._name(batch)
        with self.runner.time_split.spent("communicate"):
            number = self._work.take(f"{name}/chunks")
            if number >= len(chunks):
                self._work.drop(name)
                return None
            written = self._work.fetch(name)
            if self._work.take(f"{name}/fetched") == len(chunks) - 1:
                self._work.forget(name)
        return chunks[number], written

    def _name(self, batch: TaskBatch) -> str:
        return f"round {self._round}/batch {batch.index}"

    def _chunks(self, batch: TaskBatch) -> list[list[_Slot]]:
        """Return a batch's attempts as the inner loop gets them; the same on every rank."""
        slots = [
            (task, index, repeat)
            for task in batch.tasks
            for index in range(self.num_edits)
            for repeat in range(self.num_repeats)
        ]
        left = batch.num_tasks_left * self.num_edits * self.num_repeats
        most = self.runner.candidates_per_call
        sizes = call_sizes(len(slots), left=left, most=most, num_ranks=self._work.num_ranks)
        rest = iter(slots)
        return [list(islice(rest, size)) for size in sizes]


def restart_e_step(checkpoint: dict[str, Any]) -> None:
    """Reset the batch counters of a checkpoint written within an E-step to the epoch's start."""
    fit = checkpoint.get("loops", {}).get("fit_loop")
    if fit is None or fit["epoch_progress"]["current"]["processed"] % 2 == 1:
        return
    if fit["epoch_progress"]["current"]["started"] == fit["epoch_progress"]["current"]["processed"]:
        return
    progress = fit["epoch_loop.batch_progress"]
    before_epoch = progress["total"]["ready"] - progress["current"]["ready"]
    for counter in ("ready", "started", "processed", "completed"):
        progress["current"][counter] = 0
        progress["total"][counter] = before_epoch
    progress["is_last_batch"] = False
