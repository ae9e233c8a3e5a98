"""Task ids of the data module: printable, and unique per source."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import ToyTask

from seal_lightning.core import Task
from seal_lightning.core.errors import DataError
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.training.data_module import SealDataModule


class Tasks(TaskSource):
    def __init__(self, *ids: object) -> None:
        self.ids = ids

    def load(self) -> Sequence[Task]:
        return [ToyTask(task_id=task_id, key="k", value="v") for task_id in self.ids]  # type: ignore[arg-type]


@pytest.mark.parametrize("task_id", ["a", "Überlingen 12/3", "日本", "../../etc", "a" * 200])
def test_data_module_accepts_printable_task_ids(task_id: str) -> None:
    data = SealDataModule(train=Tasks("first", task_id))
    data.setup("fit")
    assert [task.task_id for task in data.tasks("train")] == ["first", task_id]


@pytest.mark.parametrize(
    "task_id", ["", "a\n", "a\0b", "\x1f", "a\u2028", "\u202eabc", "\ud800", "a" * 201, 3, None, b"a"]
)
def test_data_module_rejects_other_task_ids(task_id: object) -> None:
    with pytest.raises(DataError, match=r"data\.train: the id of task 1, .* 1 to 200 printable characters") as caught:
        SealDataModule(train=Tasks("first", task_id)).setup("fit")
    assert str(caught.value).isprintable()


def test_data_module_rejects_repeated_task_ids() -> None:
    data = SealDataModule(train=Tasks("a"), validation=Tasks("b", "c", "b"), test=Tasks("d"))
    with pytest.raises(DataError, match=r"data\.validation: two of its tasks have the id 'b'"):
        data.setup("fit")
    data.setup("test")
