"""The E-step of one batch of tasks: write self-edits, try each in the inner loop, store every attempt.

The only file that touches Lightning's private ``_Loop``: hung below the trainer's loops, the loop's progress is saved and
restored with every checkpoint. ``tests/test_loops.py`` holds Lightning to what is relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _Progress

from seal_lightning.attempt_store import AttemptStore
from seal_lightning.attempting import Attempting
from seal_lightning.seeds import attempt_id
from seal_lightning.types import Attempt, ExamScores, SelfEdit, Task, Trial


class SelfEditLoop(_Loop):
    """The inner self-edit adaptation, batch by batch of the E-step.

    Args:
        trainer: whose loops this loop belongs to.
        attempting: how edits are proposed and tried.
        num_edits: k, self-edits a task.
        num_repeats: inner seeds an edit.
        candidates_per_call: how many trials the inner loop gets at once.
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

    def attach(self) -> None:
        """Hang below the trainer's epoch loop, so that Lightning saves and restores this loop's progress."""
        self.trainer.fit_loop.epoch_loop.self_edit_loop = self

    def run(self, tasks: Sequence[Task], round_index: int, on_attempt: Callable[[Attempt], None]) -> None:
        """Make and store every attempt at these tasks that is not stored yet; ``on_attempt`` hears of each new one."""
        if self._store_round != round_index:
            self.store, self._store_round = self.open_store(round_index), round_index
        missing = [task for task in tasks if self._missing(task, round_index)]
        if not missing:
            return
        # The whole batch is written anew, also for tasks that are half done: a batch's composition moves roundings.
        edits = self._edits(tasks, round_index)
        before = self._before(missing, round_index)
        trials = [
            self.attempting.trial(task, edits[task.task_id, index], round_index, repeat)
            for task in missing
            for index, repeat in self._missing(task, round_index)
        ]
        for chunk in _chunks(trials, self.candidates_per_call):
            for _ in chunk:
                self.attempt_progress.increment_ready()
                self.attempt_progress.increment_started()
            for attempt in self.attempting.attempt(chunk, before):
                self.store.add(attempt)
                self.attempt_progress.increment_processed()
                self.attempt_progress.increment_completed()
                on_attempt(attempt)

    def _missing(self, task: Task, round_index: int) -> list[tuple[int, int]]:
        """The (edit index, repeat) pairs of a task that no stored attempt covers."""
        return [
            (index, repeat)
            for index in range(self.num_edits)
            for repeat in range(self.num_repeats)
            if self.store.get(attempt_id(round_index, task.task_id, index, repeat)) is None
        ]

    def _edits(self, tasks: Sequence[Task], round_index: int) -> dict[tuple[str, int], SelfEdit]:
        """The tasks' edits by (task id, edit index); where an edit was tried before, it is the stored one."""
        edits = {(e.task_id, e.edit_index): e for e in self.attempting.propose(tasks, self.num_edits, round_index)}
        stored = {(a.task_id, a.edit.edit_index): a.edit for a in self.store.all()}
        return edits | {key: edit for key, edit in stored.items() if key in edits}

    def _before(self, tasks: Sequence[Task], round_index: int) -> dict[str, ExamScores]:
        """The tasks' exams without adaptation, once a task and round."""
        before = {a.task_id: a.before for a in self.store.all() if a.before is not None}
        unknown = [task for task in tasks if task.task_id not in before]
        exams = self.attempting.examine([(task, None) for task in unknown], self.attempting.reward.needs)
        return before | {task.task_id: exam for task, exam in zip(unknown, exams, strict=True)}


def _chunks(trials: list[Trial], size: int) -> Iterator[list[Trial]]:
    for start in range(0, len(trials), size):
        yield trials[start : start + size]
