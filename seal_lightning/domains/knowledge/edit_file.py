"""Self-edits that another writer wrote, from a file: another model's, another run's, the paper's release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from seal_lightning.core import JSON, SamplingSpec, SelfEdit, Task
from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import AnyDomain, Engine, Writer
from seal_lightning.domains.knowledge.domain import KnowledgeDomain
from seal_lightning.domains.knowledge.edit_records import FoundEdits, read_edits
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.splitting import SplitName, readable


class EditFile(Writer):
    """Reads self-edits from a JSON or JSON Lines file and gives each task the first so many of its own.

    Without ``field`` it knows what ``seal predict`` writes (``self_edits.jsonl``), a run's ``attempts.rank*.jsonl`` and
    ``accepted.jsonl``, and records with ``completions``: a list, or an object of lists by writer, as the SEAL release has
    it. Records are a list, an object by task id or title, or lines. A record is a task's when it has its ``task_id`` or
    its title and context; one that only has a title is that of the only task so called. The edits of a task are in the
    order of their ``edit_index``, or else of the file; repeated attempts at an edit are one edit.

    Args:
        path: The file, at most 256 MiB.
        field: The path to a record's edits, a text or a list of texts: keys with dots between, which may have dots
            themselves (``completions.gpt-4.1``), or a list of keys.
        writer: Where a record has the edits of several writers by name, whose to take.
        split: How an edit falls into sequences: as the run's format says (``format``), ``lines``, ``blocks`` between
            lines of dashes, or not at all (``whole``). Not at all is what the paper's continued pretraining does.
        allow_missing: Give a task of which the file has no edit an empty one, which is malformed and counted, instead of
            refusing the file.

    Raises:
        ConfigError: A setting is out of bounds.

    """

    def __init__(
        self,
        path: str | Path,
        field: str | list[str] | None = None,
        writer: str | None = None,
        split: SplitName = "format",
        allow_missing: bool = False,
    ) -> None:
        if split not in get_args(SplitName):
            raise ConfigError(f"EditFile: split is {shown(split)}; allowed are {', '.join(get_args(SplitName))}")
        keys = [field] if isinstance(field, str) else list(field or ())
        if field is not None and not (keys and all(keys)):
            raise ConfigError(f"EditFile: field is {shown(field)}; allowed are keys, none of them empty, or null")
        self.path = Path(path).expanduser()
        self.field = keys
        self.writer = writer
        self.split = split
        self.allow_missing = allow_missing
        self._records: list[FoundEdits] | None = None
        self._by_task: dict[str, dict[int, str]] = {}
        self._by_title: dict[str, dict[int, str]] = {}
        self._owners: dict[str, str] = {}

    def bind(self, domain: AnyDomain, engine: Engine, sampling: SamplingSpec | None = None) -> None:
        """Read the file, so that it is refused before anything is computed.

        Raises :class:`DataError`, and :class:`ConfigError` for a domain that knows no ``split``.
        """
        if self.split != "format" and not isinstance(domain, KnowledgeDomain):
            raise ConfigError(f"EditFile: split is {self.split!r}; allowed with {type(domain).__name__} is 'format'")
        self._read()

    def check(self, tasks: Sequence[Task], num_edits: int) -> None:
        """Look up every task's edits. Raises :class:`DataError` as :meth:`write` does."""
        self.write(tasks, num_edits, {})

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> Sequence[SelfEdit]:
        """``num_edits`` edits for each task, task by task; ``seeds`` do not matter.

        Raises :class:`DataError` when the file has no edits of a task (unless that is allowed), or fewer.
        """
        found = [self._edits_of(task) for task in tasks]
        missing = [task for task, texts in zip(tasks, found, strict=True) if texts is None]
        if missing and not self.allow_missing:
            raise self._no_edits(missing, len(tasks))
        self._check_numbers(tasks, found, num_edits)
        directives: dict[str, JSON] = {} if self.split == "format" else {"split": self.split}
        return [
            SelfEdit(task_id=task.task_id, edit_index=index, text=text, directives=dict(directives))
            for task, texts in zip(tasks, found, strict=True)
            for index, text in enumerate([""] * num_edits if texts is None else texts[:num_edits])
        ]

    def _read(self) -> list[FoundEdits]:
        if self._records is None:
            records = read_edits(self.path, self.field, self.writer)
            for record in records:
                for task_id in record.task_ids:
                    self._add(self._by_task.setdefault(task_id, {}), record)
                for title in record.titles:
                    self._add(self._by_title.setdefault(title, {}), record)
            self._records = records
        return self._records

    def _add(self, edits: dict[int, str], record: FoundEdits) -> None:
        for text in record.texts:
            index = len(edits) if record.edit_index is None else record.edit_index
            if edits.setdefault(index, text) != text:
                raise DataError(
                    f"{self.path}: {record.where}: the file has another edit {index} of the same task. "
                    "Give a file of one round, or number the edits"
                )

    def _edits_of(self, task: Task) -> list[str] | None:
        """The task's edits, in order; None when the file knows nothing of it."""
        self._read()
        edits = self._by_task.get(task.task_id)
        if edits is None and isinstance(task, Passage):
            edits = self._by_title.get(task.title)
            owner = self._owners.setdefault(task.title, task.task_id) if edits is not None else task.task_id
            if owner != task.task_id:
                raise DataError(
                    f"{self.path}: has edits for the title {shown(task.title)}, which two tasks have: {owner} and "
                    f"{task.task_id}. Give its records 'task_id' or 'context'"
                )
        return None if edits is None else [readable(edits[index]) for index in sorted(edits)]

    def _no_edits(self, missing: Sequence[Task], num_tasks: int) -> DataError:
        records = self._read()
        return DataError(
            f"{self.path}: has no edit of {len(missing)} of the {num_tasks} tasks asked for, the first "
            f"{shown(_called(missing[0]))} (task id {missing[0].task_id}). It has {len(records)} records, the first of "
            f"{shown(records[0].called)}, and matches {num_tasks - len(missing)} tasks. A record must have a task's "
            "'task_id', or its 'title' and 'context'. Give a file about these tasks, other tasks (data.test), or set "
            "allow_missing to count a task without an edit as malformed"
        )

    def _check_numbers(self, tasks: Sequence[Task], found: Sequence[list[str] | None], num_edits: int) -> None:
        few = [(len(texts), task) for task, texts in zip(tasks, found, strict=True) if texts is not None]
        few = [(number, task) for number, task in few if number < num_edits]
        if few:
            least = min(number for number, _ in few)
            number, task = few[0]
            raise DataError(
                f"{self.path}: has fewer than {num_edits} edits of {len(few)} of the {len(tasks)} tasks asked for, the "
                f"first {shown(_called(task))} (task id {task.task_id}) with {number}. "
                + (f"Set model.test_edits to {least} or less" if least else "Give each at least one edit")
            )


def _called(task: Task) -> str:
    return task.title if isinstance(task, Passage) else task.task_id
