"""Callback that draws ARC tasks and the attempts at them: files, TensorBoard, the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.text import Text

from seal_lightning.callbacks.arc_answers import (
    arc_tasks,
    attempted_grids,
    check_tasks,
    final_results,
    first_adapted,
)
from seal_lightning.core import Attempt, BufferRow, Candidate, ExamScores
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.names import checked_name
from seal_lightning.domains.arc.drawing import Answers, as_png, pixels, rich_task, task_figure
from seal_lightning.domains.arc.grids import ArcTask
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback
from seal_lightning.training.module import SealModule

_LOG_WIDTH = 150
_WORST = float("-inf")
_SOLVED = {1.0: "solved", 0.0: "not solved", None: "not scored"}


class ArcPictures(SealCallback):
    """Draws each held-out task with the final self-edit's attempts (``results/arc/``, TensorBoard, the terminal) and,
    after each E-step, training tasks with their best attempt (TensorBoard).

    Args:
        max_tasks: ≥ 0, the number of training tasks drawn per round, and of held-out tasks in the terminal.
        show_in_terminal: show held-out tasks there.

    Example:
        >>> ArcPictures(max_tasks=3).show_in_terminal
        True

    """

    def __init__(self, max_tasks: int = 12, show_in_terminal: bool = True) -> None:
        if max_tasks < 0:
            raise ConfigError(f"ArcPictures: max_tasks is {shown(max_tasks)}; allowed is 0 or more")
        self.max_tasks = max_tasks
        self.show_in_terminal = show_in_terminal

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise :class:`ConfigError` for tasks of another domain."""
        check_tasks(trainer, self)

    def on_buffer(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        candidates: Sequence[Candidate],
        buffer: Sequence[BufferRow],
    ) -> None:
        """Draw the best attempt at each of the first training tasks."""
        board, module = _board(trainer), cast(SealModule, pl_module)
        if board is None or not trainer.is_global_zero:
            return
        by_task: dict[str, list[Attempt]] = {}
        for candidate in candidates:
            by_task.setdefault(candidate.task_id, []).extend(candidate.attempts)
        for task in arc_tasks(trainer, "train", self)[: self.max_tasks]:
            best = best_attempt(by_task.get(task.task_id, ()))
            if best is None or best.after is None:
                continue
            reward = "none" if best.reward is None else f"{best.reward:.3g}"
            note = (
                f"round {best.round} · the best of {len(by_task[task.task_id])} attempts: edit {best.edit.edit_index}"
            )
            picture = pixels(task_figure(task, _answers(module, best.after, best.before), f"{note}, reward {reward}"))
            board.add_image(f"arc/training/{task.task_id}", picture, module.round_index, dataformats="HWC")

    def on_test_results(self, trainer: Trainer, pl_module: LightningModule, results: Sequence[ConditionResult]) -> None:
        """Draw every held-out task with the attempts after the final policy's self-edit and without adaptation.

        Of several edits, the first is drawn that an adapter could be trained on.
        """
        edited = final_results(results, Condition.SELF_EDIT)
        if not trainer.is_global_zero or not edited:
            return
        unadapted = final_results(results, Condition.NO_ADAPTATION)
        board, run, module = _board(trainer), RunDir.of(trainer), cast(SealModule, pl_module)
        paths = []
        for place, task in enumerate(arc_tasks(trainer, "test", self)):
            if task.task_id not in edited:
                continue
            result, note = first_adapted(edited[task.task_id]), _note(edited[task.task_id])
            before = [other.scores for other in unadapted.get(task.task_id, ())]
            answers = _answers(module, result.scores, before[0] if before else None)
            picture = pixels(task_figure(task, answers, note))
            paths.append(run.write_bytes_result(_file_name(task, place), "png", as_png(picture), folder="arc"))
            if board is not None:
                board.add_image(f"arc/test/{task.task_id}", picture, result.round, dataformats="HWC")
            if self.show_in_terminal and place < self.max_tasks:
                _print(task, answers, note)
        if paths:
            Console().print(Text(f"Pictures of {len(paths)} held-out tasks: {paths[0].parent}"), soft_wrap=True)


def best_attempt(attempts: Sequence[Attempt]) -> Attempt | None:
    """Return the examined attempt of the highest reward, then the most partial credit; the first of equals."""
    examined = [a for a in attempts if a.after is not None and _was_answered(a.after)]
    return max(examined, key=_rank, default=None)


def _rank(attempt: Attempt) -> tuple[float, float]:
    credit = None if attempt.after is None else attempt.after.partial_credit
    return (_WORST if attempt.reward is None else attempt.reward, _WORST if credit is None else credit)


def _was_answered(scores: ExamScores) -> bool:
    """Return False for a likelihood reward's scores, which have no answers to draw."""
    return any(question.answer is not None for question in scores.questions)


def _answers(module: SealModule, after: ExamScores, before: ExamScores | None) -> Answers:
    names = module.domain.condition_names
    answers = {names.self_edit: attempted_grids(after)}
    if before is not None and _was_answered(before):
        answers[names.unadapted] = attempted_grids(before)
    return answers


def _note(results: Sequence[ConditionResult]) -> str:
    """Name the policy and edit of the attempts, and the result of the task's other edits."""
    result = first_adapted(results)
    edit = f"edit {results.index(result)}, " if len(results) > 1 else ""
    of_all = f" (solved by {sum(r.scores.solved == 1 for r in results)} of {len(results)} edits)" if edit else ""
    failed = "" if result.failure is None else f" · not adapted: {shown(result.failure, 60)}"
    return f"after {result.round} rounds · {edit}{_SOLVED[result.scores.solved]}{of_all}{failed}"


def _file_name(task: ArcTask, place: int) -> str:
    """Return the task's id, or its position where the id is not a valid file name."""
    try:
        return checked_name(task.task_id, "the id of a task")
    except ConfigError:
        return f"task-{place}"


def _print(task: ArcTask, answers: Answers, note: str) -> None:
    console = Console()
    if not console.is_terminal:  # a log file would get 80 columns
        console = Console(width=_LOG_WIDTH)
    console.print(rich_task(task, answers, note, digits=console.color_system is None or console.no_color))


def _board(trainer: Trainer) -> Any:
    """Return TensorBoard's writer, if the run has one."""
    return trainer.logger.experiment if isinstance(trainer.logger, TensorBoardLogger) else None
