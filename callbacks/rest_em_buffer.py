"""The ReST-EM buffer: at the E-step's end, the reward filter picks the M-step's data from all ranks' attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lightning.pytorch import LightningModule, Trainer

from seal_lightning.callbacks.reward_filter import RewardFilter
from seal_lightning.core import BufferRow, Candidate, Prompt
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.distributed import interruption
from seal_lightning.scoring.selection import group_candidates
from seal_lightning.storage.journal import RecordFile
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.hooks import SealCallback, seal_callbacks
from seal_lightning.training.module import SealModule


class RestEmBuffer(SealCallback):
    """Gathers attempts, applies the run's one :class:`RewardFilter`, and hands the buffer to the data module.

    Accepted edits are written to ``round_{r}/accepted.jsonl``. An empty buffer ends the run with an error, because
    training on nothing would look like success.

    Example:
        >>> RestEmBuffer().fills_buffer
        True
    """

    fills_buffer = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the filter; raise :class:`ConfigError` unless there is exactly one."""
        filters = [c for c in trainer.callbacks if isinstance(c, RewardFilter)]  # type: ignore[attr-defined]
        if stage == "fit" and len(filters) != 1:
            raise ConfigError(
                f"trainer.callbacks has {len(filters)} reward filters; it must have exactly one, for instance "
                "class_path: seal_lightning.callbacks.BestOfK"
            )
        self.filter = filters[0] if filters else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the buffer after an E-step."""
        module = cast(SealModule, pl_module)
        if not module.in_e_step:
            return
        data = cast(SealDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        with module.runner.time_split.spent("idle"):  # all ranks are waited for
            loop = module.self_edit_loop
            assert loop is not None, "configure_model made it"
            # All ranks know the attempts stored before this launch; one of them reports these.
            gathered = interruption.gather(loop.store.all() if loop.reports_stored else loop.store.added())
        candidates = group_candidates(gathered, data.tasks("train"))
        assert self.filter is not None
        tasks = {task.task_id: task for task in data.tasks("train")}
        rows = [buffer_row(c, module.domain.edit_prompt(tasks[c.task_id])) for c in self.filter.select(candidates)]
        if trainer.is_global_zero:
            path = RunDir.of(trainer).round(module.round_index) / "accepted.jsonl"
            RecordFile(path, BufferRow).write(rows)
        data.set_buffer(rows)
        for callback in seal_callbacks(trainer):
            callback.on_buffer(trainer, pl_module, candidates, rows)
        if not rows:
            raise RunError(_empty(module.round_index, self.filter, candidates))


def buffer_row(candidate: Candidate, prompt: Prompt) -> BufferRow:
    """Return the buffer row of a kept candidate."""
    edit = candidate.attempts[0].edit
    return BufferRow(
        task_id=candidate.task_id,
        edit_index=candidate.edit_index,
        prompt=prompt,
        text=edit.text,
        token_ids=edit.token_ids,
        reward=cast(float, candidate.reward),
        chosen=edit.chosen,
    )


def _empty(round_index: int, chosen_by: RewardFilter, candidates: Sequence[Candidate]) -> str:
    statuses = [a.status.value for c in candidates for a in c.attempts]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses)) or "no attempts"
    rewards = [c.reward for c in candidates if c.reward is not None and c.reward > float("-inf")]
    seen = f"rewards {min(rewards):.3f} to {max(rewards):.3f}" if rewards else "no rewards"
    return (
        f"the buffer of round {round_index} is empty: {type(chosen_by).__name__} kept none of {len(candidates)} edits "
        f"({counts}; {seen}). All attempts are kept. Loosen the filter, raise model.num_edits, or change the prompt "
        "format, and start a new run"
    )
