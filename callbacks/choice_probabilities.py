"""The change of the policy's choices by an M-step; for edits written by constrained decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.core import Choice, ChoiceScoreRequest, SelfEdit, Task
from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.distributed import interruption
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule


class ChoiceProbabilities(Callback):
    """Logs the probability of a round's configurations under the policy that chose them and under the one trained on them.

    Per task, the probabilities of its distinct kept configurations are summed, and those of the other ones tried. Logged
    is the mean over tasks that have both kinds. The journals are read, so that a resumed M-step reports too.

    Example:
        >>> ChoiceProbabilities().state_key
        'ChoiceProbabilities'
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report after an M-step."""
        module = cast(SealModule, pl_module)
        if module.in_e_step:
            return
        if trainer.is_global_zero:
            self._report(trainer, module)
        # The other ranks wait here, where they notice a stop, and not in the checkpoint's collective.
        interruption.gather([])

    def _report(self, trainer: Trainer, module: SealModule) -> None:
        edits = self._edits(trainer, module)
        data = cast(SealDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        kept = {(row.task_id, row.edit_index) for row in data.buffer}
        if not edits:
            return
        before = [math.exp(cast(float, edit.log_prob)) for edit in edits]
        after = [math.exp(log_prob) for log_prob in self._log_probs(trainer, module, edits)]
        figures = {
            f"{kind}_probability_{when}": _mean_mass(edits, kept, values, is_kept)
            for kind, is_kept in (("kept", True), ("other", False))
            for when, values in (("before", before), ("after", after))
        }
        known = {name: figure for name, figure in figures.items() if figure is not None}
        if len(known) < len(figures):
            return
        said = {name: shown_estimate(figure, 4) for name, figure in known.items()}
        module.print(
            f"Round {module.round_index}: the policy's probability of the configurations it kept went from "
            f"{said['kept_probability_before']} to {said['kept_probability_after']}, of others tried "
            f"from {said['other_probability_before']} to {said['other_probability_after']} "
            f"(mean of {known['kept_probability_before'].n} tasks)"
        )
        if trainer.logger is not None:
            metrics = {f"round/{name}": figure.mean for name, figure in known.items()}
            trainer.logger.log_metrics(metrics, step=module.round_index)

    @staticmethod
    def _edits(trainer: Trainer, module: SealModule) -> list[SelfEdit]:
        """Return the round's distinct configurations, task by task; of equal ones a kept one, where there is one.

        Where a resumed run has changed settings, only configurations that it still has are returned.
        """
        data = cast(SealDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        kept = {(row.task_id, row.edit_index) for row in data.buffer}
        tasks = {task.task_id: task for task in data.tasks("train")}
        stored = AttemptStore(RunDir.of(trainer).round(module.round_index)).all()
        edits = [
            a.edit
            for a in stored
            if a.edit.log_prob is not None and a.task_id in tasks and _can_say(module, tasks[a.task_id], a.edit)
        ]
        edits.sort(key=lambda edit: ((edit.task_id, edit.edit_index) in kept, -edit.edit_index))
        different = {(e.task_id, *e.directives.items()): e for e in edits}  # the last of equal ones stays
        return sorted(different.values(), key=lambda edit: (edit.task_id, edit.edit_index))

    @staticmethod
    def _log_probs(trainer: Trainer, module: SealModule, edits: Sequence[SelfEdit]) -> Sequence[float]:
        data = cast(SealDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        tasks = {task.task_id: task for task in data.tasks("train")}
        requests = []
        for edit in edits:
            schema = module.domain.edit_schema(tasks[edit.task_id])
            assert schema is not None
            prompt = module.domain.edit_prompt(tasks[edit.task_id])
            requests.append(ChoiceScoreRequest(prompt=prompt, schema=schema, choices=edit.directives))
        return module.engine.score_choices(requests)


def _can_say(module: SealModule, task: Task, edit: SelfEdit) -> bool:
    """Return whether the task's schema still has the edit's choices."""
    schema = module.domain.edit_schema(task)
    options = {} if schema is None else {part.name: part.options for part in schema if isinstance(part, Choice)}
    return options.keys() == edit.directives.keys() and all(edit.directives[name] in options[name] for name in options)


def _mean_mass(
    edits: Sequence[SelfEdit], kept: set[tuple[str, int]], values: Sequence[float], is_kept: bool
) -> Estimate | None:
    """Return the summed probability of one kind of configurations, as a mean over tasks that have both kinds."""
    mass: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for edit, value in zip(edits, values, strict=True):
        of_kind = mass[(edit.task_id, edit.edit_index) in kept]
        of_kind[edit.task_id] = of_kind.get(edit.task_id, 0.0) + value
    both = [task_id for task_id in mass[True] if task_id in mass[False]]
    return estimate([mass[is_kept][task_id] for task_id in both])
