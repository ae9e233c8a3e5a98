"""The E-step of one batch of tasks: write self-edits, try each in the inner loop, store every attempt.

The only file that touches Lightning's private ``_Loop``: hung below the trainer's loops, the loop's progress is saved and
restored with every checkpoint. ``tests/training/test_loops.py`` holds Lightning to what is relied on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress

from seal_lightning.attempts import AttemptRunner, BackgroundStage, Computed
from seal_lightning.attempts.auxiliary_exams import SetExam
from seal_lightning.core import Attempt, ExamScores, SelfEdit, Task
from seal_lightning.core.errors import RankLost, RunError, StopRequested
from seal_lightning.core.seeds import attempt_id
from seal_lightning.distributed import interruption
from seal_lightning.distributed.coordination import silence_allowed_s
from seal_lightning.distributed.work_queue import SharedWork, call_sizes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import TaskBatch

_LOOK_EVERY_S = 0.05
_VISIBLE_WITHIN_S = 30.0
"""What one host has written; network file systems remember for seconds what was not there."""

_Slot = tuple[Task, int, int]
"""A task, an edit index and a repeat: what becomes a trial once the edit is written."""


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What trying a batch's edits needs, whoever tries them."""

    edits: Mapping[tuple[str, int], SelfEdit]
    before: Mapping[str, ExamScores]
    further: Mapping[str, Mapping[str, SetExam]]


class SelfEditLoop(_Loop):
    """The inner self-edit adaptation, batch by batch of the E-step.

    Args:
        trainer: whose loops this loop belongs to.
        attempting: how edits are proposed and tried.
        num_edits: k, self-edits a task.
        num_repeats: inner seeds an edit.
        candidates_per_call: trials the inner loop gets at once at most; stored together, so a kill loses so many, and as
            many again where a judge elsewhere is asked about them meanwhile.
        num_ranks: that share the work; groups of ranks that compute as one count once.
    """

    def __init__(
        self,
        trainer: Trainer,
        attempting: AttemptRunner,
        num_edits: int,
        num_repeats: int,
        candidates_per_call: int,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(trainer)
        self.num_ranks = num_ranks
        self.attempting = attempting
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.candidates_per_call = candidates_per_call
        self.attempt_progress = _Progress()
        self.open_store: Callable[[int], AttemptStore] = lambda round_index: AttemptStore(None)
        """Where a round's attempts are kept; in memory unless a callback says otherwise."""
        self.store = AttemptStore(None)
        self._round = -1
        self._others: list[TaskBatch] = []
        """Batches of this round, so far, that other ranks have."""
        self.tells_stored = True
        """Whether this rank speaks for what was stored before this launch, when attempts are gathered."""
        self._work: SharedWork = None  # type: ignore[assignment]  # made when the ranks have met
        self._judging: tuple[BackgroundStage[list[Attempt]], Callable[[list[Attempt]], None]] | None = None
        """A chunk that is judged while the next one is adapted, and what is to be done with its attempts."""

    def attach(self) -> None:
        """Hang below the trainer's epoch loop, so that Lightning saves and restores this loop's progress; once."""
        epoch_loop = self.trainer.fit_loop.epoch_loop
        epoch_loop.self_edit_loop = self
        # Lightning 2.6 has all ranks wait for rank 0 before each batch, to pass on its SIGTERM. In the E-step no rank waits
        # for another, and GracefulStop hears signals on any.
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def run(
        self, batch: TaskBatch, round_index: int, on_attempt: Callable[[Attempt], None], *, is_last: bool = True
    ) -> None:
        """Make every attempt of the epoch that is not stored and that no other rank makes.

        Called with each of the epoch's batches, on every rank. Who comes first writes a batch's edits and begins to try them;
        with the last batch (``is_last``), a rank that is free helps the others. ``on_attempt`` hears of each attempt that is
        stored here. Where judges are asked in the background, the last chunk may be stored by the next call, or by
        :meth:`finish`.

        Raises :class:`RunError` when an attempt was stored with another seed: it belongs to another run.
        """
        if self._round != round_index:
            self._begin_round(round_index)
        try:
            with self.attempting.time_split.spent("communicate"):
                mine = self._work.take(self._name(batch)) == 0
            if mine:
                self._own(batch, on_attempt)
            else:
                self._others.append(batch)
            if is_last:
                self._help(on_attempt)
        except (StopRequested, RankLost):
            raise
        except Exception as error:
            interruption.fail(error)  # the others need not wait for the judges
            try:
                self.finish()  # what was computed before is kept, whatever came of this
            except Exception as later:  # noqa: BLE001 - what came first is what is told
                error.add_note(f"and then, of what was computed before: {later}")
            raise

    def _begin_round(self, round_index: int) -> None:
        self.finish()
        self.store.close()
        self.store, self._round, self._others = self.open_store(round_index), round_index, []
        if self._work is None:
            self._work = SharedWork.of_run(self.num_ranks, silence_allowed_s(self.trainer.strategy))
        self._check_seeds()
        with self.attempting.time_split.spent("communicate"):
            self._agree_on_what_is_stored()

    def _check_seeds(self) -> None:
        for attempt in self.store.all():
            seed = self.attempting.trial_seed(attempt.task_id, attempt.edit.edit_index, self._round, attempt.repeat)
            if attempt.seed != seed:
                raise RunError(
                    f"{self.store.folder}: the attempt {attempt.attempt_id} was made with another seed than model.seed "
                    "gives. Nothing was changed. Go on with the seed it was begun with, or start a new run in another "
                    "directory (--run_dir)"
                )

    def _agree_on_what_is_stored(self) -> None:
        """Take for stored what the rank that comes first sees: a network file system may show it later to others."""
        name = f"round {self._round}/stored"
        self.tells_stored = self._work.take(name) == 0
        if self.tells_stored:
            self._work.publish(name, sorted(attempt.attempt_id for attempt in self.store.all()))
        elif self._work.num_ranks > 1:
            while not self._work.is_published(name):
                interruption.check()
                time.sleep(_LOOK_EVERY_S)
            stored = self._work.fetch(name)
            deadline = time.monotonic() + _VISIBLE_WITHIN_S
            while not self.store.restrict_to(stored) and time.monotonic() < deadline:
                interruption.check()
                time.sleep(_LOOK_EVERY_S)
                self.store.close()
                self.store = self.open_store(self._round)
            if not self.store.restrict_to(stored):
                raise RunError(
                    f"{self.store.folder}: another rank sees attempts there that this one does not see within "
                    f"{_VISIBLE_WITHIN_S:.0f} s. All attempts are kept. Put the run directory (--run_dir) on a file system "
                    "that all ranks share, and go on with `seal fit --resume RUN`"
                )
        self._work.let_go(name)

    def _own(self, batch: TaskBatch, on_attempt: Callable[[Attempt], None]) -> None:
        """Write a batch's edits, hand them out, and try them as long as others leave some."""
        # Edits are written for the whole batch, and a chunk that was cut short is tried as a whole: what is computed
        # beside what moves roundings, and a resumed run shall end with the same bits.
        written = self._write(batch) if any(self._missing(chunk) for chunk in self._chunks(batch)) else None
        with self.attempting.time_split.spent("communicate"):
            self._work.publish(self._name(batch), written)
        self._try(batch, on_attempt)

    def _write(self, batch: TaskBatch) -> _Written:
        edits = self._edits(batch.tasks)
        before = self._before(batch.tasks)
        further = self.attempting.set_exams(batch.tasks, self._round, self.store.all())
        return _Written(edits=edits, before=before, further=further)

    def _try(self, batch: TaskBatch, on_attempt: Callable[[Attempt], None]) -> None:
        """Try chunks of a batch whose edits are written, until none is left."""
        chunks = self._chunks(batch)
        while (chunk := self._next(batch, chunks)) is not None:
            slots, written = chunk
            missing = self._missing(slots)
            if written is None or not missing:
                continue
            trials = [
                self.attempting.trial(task, written.edits[task.task_id, index], self._round, repeat)
                for task, index, repeat in slots
            ]
            for _ in missing:
                self.attempt_progress.increment_ready()
                self.attempt_progress.increment_started()
            computed = self.attempting.compute(trials, written.before, further=written.further)
            self.finish()
            self._judge(computed, missing, on_attempt)

    def _next(self, batch: TaskBatch, chunks: list[list[_Slot]]) -> tuple[list[_Slot], _Written | None] | None:
        """A chunk that no rank has, with what was written for its batch; None when there is none."""
        name = self._name(batch)
        with self.attempting.time_split.spent("communicate"):
            number = self._work.take(f"{name}/chunks")
            if number >= len(chunks):
                self._work.let_go(name)
                return None
            written = self._work.fetch(name)
            if self._work.take(f"{name}/fetched") == len(chunks) - 1:
                self._work.forget(name)
        return chunks[number], written

    def _help(self, on_attempt: Callable[[Attempt], None]) -> None:
        """Try what is left of the batches that other ranks have; wait where their edits are still being written."""
        unfinished = self._others[::-1]  # those begun last have most left
        while unfinished:
            ready = []
            with self.attempting.time_split.spent("communicate"):
                ready = [batch for batch in unfinished if self._work.is_published(self._name(batch))]
            for batch in ready:
                self._try(batch, on_attempt)
            unfinished = [batch for batch in unfinished if batch not in ready]
            if unfinished and not ready:
                with self.attempting.time_split.spent("idle"):
                    interruption.check()
                    time.sleep(_LOOK_EVERY_S)

    def _name(self, batch: TaskBatch) -> str:
        return f"round {self._round}/batch {batch.index}"

    def _chunks(self, batch: TaskBatch) -> list[list[_Slot]]:
        """A batch's attempts as they are given to the inner loop; the same on every rank."""
        slots = [
            (task, index, repeat)
            for task in batch.tasks
            for index in range(self.num_edits)
            for repeat in range(self.num_repeats)
        ]
        left = batch.num_tasks_left * self.num_edits * self.num_repeats
        sizes = call_sizes(len(slots), left=left, most=self.candidates_per_call, num_ranks=self._work.num_ranks)
        rest = iter(slots)
        return [list(islice(rest, size)) for size in sizes]

    def close(self) -> None:
        """Let another process write this rank's journal; talk to no rank any more."""
        self.store.close()
        if self._work is not None:
            self._work.close()

    def _judge(self, computed: Computed, missing: set[str], on_attempt: Callable[[Attempt], None]) -> None:
        """Have a chunk judged and its missing attempts stored; now, or while the next is adapted."""

        def store(attempts: list[Attempt]) -> None:
            for attempt in attempts:
                if attempt.attempt_id in missing:
                    stored = self.store.add(attempt)
                    self.attempt_progress.increment_processed()
                    self.attempt_progress.increment_completed()
                    on_attempt(stored)

        if self.attempting.judges_in_background:
            self._judging = BackgroundStage(lambda: self.attempting.judged(computed)), store
        else:
            with self.attempting.time_split.spent("judge"):
                attempts = self.attempting.judged(computed)
            store(attempts)

    def finish(self) -> None:
        """Wait for the judges, and store what they were asked about. Raises what they raised."""
        if self._judging is not None:
            (judging, store), self._judging = self._judging, None
            with self.attempting.time_split.spent("judge"):
                attempts = judging.result()
            store(attempts)

    def _missing(self, chunk: Sequence[_Slot]) -> set[str]:
        """The attempt ids of a chunk that are not stored."""
        ids = {attempt_id(self._round, task.task_id, index, repeat) for task, index, repeat in chunk}
        return {name for name in ids if self.store.get(name) is None}

    def _edits(self, tasks: Sequence[Task]) -> dict[tuple[str, int], SelfEdit]:
        """The tasks' edits by (task id, edit index); where an edit was tried before, it is the stored one."""
        edits = {(e.task_id, e.edit_index): e for e in self.attempting.propose(tasks, self.num_edits, self._round)}
        stored = {(a.task_id, a.edit.edit_index): a.edit for a in self.store.all()}
        return edits | {key: edit for key, edit in stored.items() if key in edits}

    def _before(self, tasks: Sequence[Task]) -> dict[str, ExamScores]:
        """The tasks' exams without adaptation, once a task and round."""
        wanted = {task.task_id for task in tasks}
        before = {a.task_id: a.before for a in self.store.all() if a.before is not None and a.task_id in wanted}
        return before if before.keys() == wanted else self.attempting.before(tasks) | before


def restart_e_step(checkpoint: dict[str, Any]) -> None:
    """Where a checkpoint was written in the middle of an E-step, set its batch counters back to the epoch's start."""
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
