"""Passages from a data set on the Hugging Face hub, or in a local directory that ``datasets`` can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge.records import FlatRow, RecordError, validated
from seal_lightning.domains.knowledge.sources import Located, PassageSource, build_passage, located


@dataclass
class HubDataset(PassageSource):
    """A data set with SQuAD's flat columns: ``title``, ``context``, ``question``, ``answers`` with a list ``text``.

    Rows of one title and context make one passage, in first-seen order; rows without an answer (SQuAD v2) are left out.
    """

    name: str
    """As ``datasets.load_dataset`` takes it, for example ``rajpurkar/squad``, or a local directory."""
    split: str
    config: str | None = None
    revision: str | None = None
    """A branch, tag or commit; give a commit for a data set that cannot change between runs."""

    @property
    def origin(self) -> str:
        """Name, configuration, revision and split."""
        config = f"/{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"data set {self.name}{config}{revision}, split {self.split}"

    def passages(self) -> Iterator[Located]:
        """The data set's rows, grouped; the rows that are invalid come first."""
        grouped: dict[tuple[str, str], list[tuple[str | None, str, list[str]]]] = {}
        first_row: dict[tuple[str, str], int] = {}
        for index, row in enumerate(self._rows()):
            try:
                record = validated(FlatRow, row)
            except RecordError as error:
                yield f"row {index}", error
                continue
            key = (record.title, record.context)
            first_row.setdefault(key, index)
            questions = grouped.setdefault(key, [])
            if record.answers.text:
                questions.append((record.id, record.question, record.answers.text))
        for key, questions in grouped.items():
            yield located(f"row {first_row[key]}", partial(build_passage, *key, questions))

    def _rows(self) -> Iterable[object]:
        from datasets import Dataset, load_dataset
        from datasets.exceptions import DatasetsError

        try:
            loaded = load_dataset(self.name, self.config, split=self.split, revision=self.revision)
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{self.origin}: cannot be loaded: {type(error).__name__}: {error}. "
                "Check the name, configuration, revision and split, and that the hub can be reached"
            ) from error
        if not isinstance(loaded, Dataset):
            raise DataError(f"{self.origin}: names no single split; give one, such as train")
        rows: Iterable[object] = loaded
        return rows
