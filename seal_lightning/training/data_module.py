"""The LightningDataModule: tasks in the E-step, buffer rows in the M-step, held-out tasks in evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule

from seal_lightning.core import BufferRow, Task
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError, DataError, RunError, shown
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.distributed.work_queue import batch_sizes, by_falling_cost
from seal_lightning.storage.journal import from_plain, to_plain
from seal_lightning.training.batches import EpisodeBatches, RowBatches, SharedTaskBatches, TaskBatches
from seal_lightning.training.module import SealModule

MAX_TASK_ID = 200
"""Characters."""


class SealDataModule(LightningDataModule, Configurable):
    """Gives the trainer tasks and buffer rows.

    Args:
        train: tasks of the E-step.
        validation: tasks examined after each round; none by default.
        test: held-out tasks of ``seal test``.
        predict: tasks that ``seal predict`` writes self-edits for; the ``test`` tasks by default.
        tasks_per_batch: ≥ 1, tasks whose self-edits are sampled in one batch.
    """

    def __init__(
        self,
        train: TaskSource,
        validation: TaskSource | None = None,
        test: TaskSource | None = None,
        predict: TaskSource | None = None,
        tasks_per_batch: int = 1,
    ) -> None:
        super().__init__()
        if tasks_per_batch < 1:
            raise ConfigError(f"data.tasks_per_batch: {tasks_per_batch} is not allowed; it must be at least 1")
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict or test}
        self.tasks_per_batch = tasks_per_batch
        self.buffer: list[BufferRow] = []
        self._tasks: dict[str, Sequence[Task]] = {}

    def setup(self, stage: str) -> None:
        """Load the tasks that the stage needs."""
        needed = {"fit": "train", "validate": "validation"}.get(stage, stage)
        if self.sources[needed] is None:
            raise ConfigError(f"data.{needed} is not set: `seal {stage}` needs a task source there")
        # A fit reads the held-out tasks too, so that an overlap or a broken file is found before hours of training.
        for name in ("train", "validation", "test") if stage == "fit" else (needed,):
            source = self.sources[name]
            if source is not None and name not in self._tasks:
                self._tasks[name] = _checked(name, source.load())
        self._check_apart()

    def _check_apart(self) -> None:
        """Raise :class:`DataError` where training tasks are also validated or tested on."""
        train = {task.task_id for task in self.tasks("train")}
        for name in ("validation", "test"):
            if both := sorted(train & {task.task_id for task in self.tasks(name)}):
                raise DataError(f"data.{name}: {len(both)} of its tasks are training tasks too, for instance {both[0]}")

    def tasks(self, name: Literal["train", "validation", "test", "predict"]) -> Sequence[Task]:
        """Return the tasks loaded under this name; empty where the stage needs none."""
        return self._tasks.get(name, ())

    def train_dataloader(self) -> SharedTaskBatches | RowBatches:
        """Return the tasks in even epochs, the buffer in odd ones; called once per epoch."""
        module = self._module
        if module.in_e_step:
            tasks, ranks = self.tasks("train"), module.trainer.world_size
            # For several ranks the longest tasks come first, so that all ranks end at nearly the same time.
            order = by_falling_cost(module.domain, tasks) if ranks > 1 else tasks
            return SharedTaskBatches(order, batch_sizes(len(tasks), self.tasks_per_batch, ranks))
        if not self.buffer:
            raise RunError(
                f"the buffer of round {module.round_index} is empty: there is nothing for the M-step to learn"
            )
        return RowBatches(
            self.buffer,
            num_passes=module.reinforce.num_epochs,
            batch_size=module.reinforce.batch_size,
            rank=module.trainer.global_rank,
            world_size=module.trainer.world_size,
            seed=module.seed,
            round_index=module.round_index,
        )

    def set_buffer(self, rows: Sequence[BufferRow]) -> None:
        """Take the rows that the next M-step trains on."""
        self.buffer = list(rows)

    def val_dataloader(self) -> TaskBatches | list[Any]:
        """Return the validation tasks, or nothing."""
        return self._batches("validation") if "validation" in self._tasks else []

    def test_dataloader(self) -> list[EpisodeBatches]:
        """Return the protocol's episodes over the test tasks, once for each policy of :attr:`SealModule.tested_rounds`."""
        module = self._module
        episodes = module.test_episodes
        at_once = module.protocol.num_at_once(self.tasks_per_batch)
        rank, world_size = (0, 1) if module.protocol.spread else (module.trainer.global_rank, module.trainer.world_size)
        return [EpisodeBatches(episodes, at_once, rank, world_size) for _ in module.tested_rounds]

    def predict_dataloader(self) -> TaskBatches:
        """Return the tasks to write self-edits for."""
        return self._batches("predict")

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer, for a resume in the M-step."""
        return {"buffer": to_plain(self.buffer, BufferRow)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the buffer."""
        self.buffer = from_plain(state_dict["buffer"], BufferRow)

    def _batches(self, name: str) -> TaskBatches:
        module = self._module
        return TaskBatches(
            self._tasks[name], self.tasks_per_batch, module.trainer.global_rank, module.trainer.world_size
        )

    @property
    def _module(self) -> SealModule:
        assert self.trainer is not None
        return cast(SealModule, self.trainer.lightning_module)


def _checked(name: str, tasks: Sequence[Task]) -> Sequence[Task]:
    """Return the tasks. Raises :class:`DataError` unless ids are unique and printable: attempts and seeds use them."""
    seen: set[str] = set()
    for number, task in enumerate(tasks):
        task_id = task.task_id
        if not isinstance(task_id, str) or not 1 <= len(task_id) <= MAX_TASK_ID or not task_id.isprintable():
            raise DataError(
                f"data.{name}: the id of task {number}, {shown(task_id)}, is not allowed; it must be 1 to {MAX_TASK_ID} "
                "printable characters, without control characters and line breaks"
            )
        if task_id in seen:
            raise DataError(f"data.{name}: two of its tasks have the id {shown(task_id)}; ids must be unique")
        seen.add(task_id)
    return tasks
