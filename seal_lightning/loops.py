"""The E-step of one batch of tasks: write self-edits, try each in the inner loop, store every attempt.

The only file that touches Lightning's private ``_Loop``: hung below the trainer's loops, the loop's progress is saved and
restored with every checkpoint. ``tests/test_loops.py`` holds Lightning to what is relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress

from seal_lightning.attempt_store import AttemptStore
from seal_lightning.attempting import Attempting, Computed, InBackground
from seal_lightning.errors import RankLost, RunError, StopRequested
from seal_lightning.seeds import attempt_id
from seal_lightning.types import Attempt, ExamScores, SelfEdit, Task

_Slot = tuple[Task, int, int]
"""A task, an edit index and a repeat: what becomes a trial once the edit is written."""


class SelfEditLoop(_Loop):
    """The inner self-edit adaptation, batch by batch of the E-step.

    Args:
        trainer: whose loops this loop belongs to.
        attempting: how edits are proposed and tried.
        num_edits: k, self-edits a task.
        num_repeats: inner seeds an edit.
        candidates_per_call: trials the inner loop gets at once; stored together, so a kill loses at most so many, and as
            many again where a judge elsewhere is asked about them meanwhile.
    """

    def __init__(
        self, trainer: Trainer, attempting: Attempting, num_edits: int, num_repeats: int, candidates_per_call: int
    ) -> None:
        super().__init__(trainer)
        self.attempting = attempting
        self.num_edits = num_edits
        self.num_repeats = num_repeats
        self.candidates_per_call = candidates_per_call
        self.attempt_progress = _Progress()
        self.open_store: Callable[[int], AttemptStore] = lambda round_index: AttemptStore(None)
        """Where a round's attempts are kept; in memory unless a callback says otherwise."""
        self.store = AttemptStore(None)
        self._store_round: int | None = None
        self._judging: tuple[InBackground[list[Attempt]], Callable[[list[Attempt]], None]] | None = None
        """A chunk that is judged while the next one is adapted, and what is to be done with its attempts."""

    def attach(self) -> None:
        """Hang below the trainer's epoch loop, so that Lightning saves and restores this loop's progress; once."""
        epoch_loop = self.trainer.fit_loop.epoch_loop
        epoch_loop.self_edit_loop = self
        # Lightning 2.6 has all ranks wait for rank 0 before each batch, to pass on its SIGTERM. In the E-step no rank waits
        # for another, and GracefulStop hears signals on any.
        epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def run(self, tasks: Sequence[Task], round_index: int, on_attempt: Callable[[Attempt], None]) -> None:
        """Make every attempt at these tasks that is not stored yet; ``on_attempt`` hears of each that is stored.

        Where judges are asked in the background, the last chunk may be stored by the next call, or by :meth:`finish`.
        """
        if self._store_round != round_index:
            self.finish()
            self.store.close()
            self.store, self._store_round = self.open_store(round_index), round_index
        slots = [
            (task, index, repeat)
            for task in tasks
            for index in range(self.num_edits)
            for repeat in range(self.num_repeats)
        ]
        chunks = [chunk for chunk in _chunks(slots, self.candidates_per_call) if self._missing(chunk, round_index)]
        if not chunks:
            return
        try:
            self._try(tasks, chunks, round_index, on_attempt)
        except (StopRequested, RankLost):
            raise
        except Exception:
            self.finish()  # what was computed before is kept, whatever came of this
            raise

    def _try(
        self,
        tasks: Sequence[Task],
        chunks: Sequence[list[_Slot]],
        round_index: int,
        on_attempt: Callable[[Attempt], None],
    ) -> None:
        # Edits are written for the whole batch, and a chunk that was cut short is tried as a whole: what is computed
        # beside what moves roundings, and a resumed run shall end with the same bits.
        edits = self._edits(tasks, round_index)
        before = self._before(tasks)
        further = self.attempting.set_exams(tasks, round_index, self.store.all())
        for chunk in chunks:
            missing = self._missing(chunk, round_index)
            trials = [
                self.attempting.trial(task, edits[task.task_id, index], round_index, repeat)
                for task, index, repeat in chunk
            ]
            for _ in missing:
                self.attempt_progress.increment_ready()
                self.attempt_progress.increment_started()
            computed = self.attempting.compute(trials, before, further=further)
            self.finish()
            self._judge(computed, missing, on_attempt)

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
            self._judging = InBackground(lambda: self.attempting.judged(computed)), store
        else:
            store(self.attempting.judged(computed))

    def finish(self) -> None:
        """Wait for the judges, and store what they were asked about. Raises what they raised."""
        if self._judging is not None:
            (judging, store), self._judging = self._judging, None
            store(judging.result())

    def _missing(self, chunk: list[_Slot], round_index: int) -> set[str]:
        """The attempt ids of a chunk that are not stored.

        Raises :class:`RunError` when one was stored with another seed: it belongs to another run.
        """
        missing = set()
        for task, index, repeat in chunk:
            name = attempt_id(round_index, task.task_id, index, repeat)
            stored = self.store.get(name)
            if stored is None:
                missing.add(name)
            elif stored.seed != self.attempting.trial_seed(task.task_id, index, round_index, repeat):
                raise RunError(
                    f"{self.store.folder}: the attempt {name} was made with another seed than model.seed gives. Nothing was "
                    "changed. Go on with the seed it was begun with, or start a new run in another directory (--run_dir)"
                )
        return missing

    def _edits(self, tasks: Sequence[Task], round_index: int) -> dict[tuple[str, int], SelfEdit]:
        """The tasks' edits by (task id, edit index); where an edit was tried before, it is the stored one."""
        edits = {(e.task_id, e.edit_index): e for e in self.attempting.propose(tasks, self.num_edits, round_index)}
        stored = {(a.task_id, a.edit.edit_index): a.edit for a in self.store.all()}
        return edits | {key: edit for key, edit in stored.items() if key in edits}

    def _before(self, tasks: Sequence[Task]) -> dict[str, ExamScores]:
        """The tasks' exams without adaptation, once a task and round."""
        before = {a.task_id: a.before for a in self.store.all() if a.before is not None}
        if all(task.task_id in before for task in tasks):
            return before
        return self.attempting.before(tasks) | before


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


def _chunks(slots: list[_Slot], size: int) -> Iterator[list[_Slot]]:
    for start in range(0, len(slots), size):
        yield slots[start : start + size]
