"""Sources of passages: SQuAD files, JSON passages, the Hugging Face hub, and the passages of the package."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.json_records import (
    InvalidRecord,
    RecordError,
    json_kind,
    parse_lines,
    read_bytes,
    read_json,
    validated,
)
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.passage_records import (
    FlatRow,
    Located,
    build_passage,
    located,
    passage_of_row,
    squad_paragraphs,
)

_log = logging.getLogger(__name__)

PASSAGES_DIRECTORY = Path(__file__).with_name("passages")
"""The data that is installed with the package."""

Split = Literal["train", "validation", "test"]


@dataclass(kw_only=True)
class PassageSource(TaskSource):
    """Base of all passage sources; a subclass says where its records are.

    Example:
        >>> class Fixed(PassageSource):
        ...     origin = "two passages"
        ...     def passages(self):
        ...         for name in ("One", "Two"):
        ...             yield name, build_passage(name, f"{name} fact.", [])
        >>> [passage.title for passage in Fixed(require_questions=False, limit=1).load()]
        ['One']

    """

    limit: int | None = None
    """≥ 1: only the first so many passages, and an error if there are fewer; None takes all."""
    shuffle_seed: int | None = None
    """Shuffle the passages with this seed before ``limit`` cuts; SQuAD files have an article's passages in a row."""
    skip_invalid: bool = False
    """Skip invalid records with a warning instead of raising an error."""
    num_questions: int | None = None
    """≥ 1: sample so many of all passages' questions; None takes all. Passages without a sampled question stay: they are
    learned, but not examined."""
    question_seed: int = 42
    """Seeds the sample of questions. With the same seed, a smaller ``num_questions`` is a subset of a larger one."""
    require_questions: bool = True
    """Treat passages without an answerable question as invalid. Only ``seal predict`` works without questions."""
    skipped: tuple[InvalidRecord, ...] = field(default=(), init=False, repr=False, compare=False)
    """The records that the last :meth:`load` skipped."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        for name in ("limit", "num_questions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"{type(self).__name__}: {name} is {shown(value)}; allowed is 1 or more, or null for all"
                )

    @property
    @abstractmethod
    def origin(self) -> str:
        """The data set's name in messages."""

    @abstractmethod
    def passages(self) -> Iterator[Located]:
        """Yield every record in the data set's order. Raises :class:`DataError` when it cannot be read at all."""

    def load(self) -> list[Passage]:
        """Return the passages, up to ``limit``, in the data set's order.

        Raises :class:`DataError` when the data set is missing, empty or unreadable, has fewer passages than ``limit`` or
        fewer questions than ``num_questions``, and, without ``skip_invalid``, at the first invalid record. Passages
        without an answerable question (see ``require_questions``) and repeated passages are invalid, too.
        """
        found: dict[str, Passage] = {}
        places: dict[str, str] = {}
        invalid: list[InvalidRecord] = []
        for where, item in self.passages():
            problem = str(item) if isinstance(item, RecordError) else self._problem(item, places)
            if isinstance(item, Passage) and not problem:
                found[item.task_id] = item
                places[item.task_id] = where
                continue
            if not self.skip_invalid:
                raise DataError(
                    f"{self.origin}: {where}: {problem}. Correct the record, or set skip_invalid to skip such records"
                )
            invalid.append(InvalidRecord(where=where, problem=problem))
        self.skipped = tuple(invalid)
        if not found:
            raise self._none_left(invalid)
        if invalid:
            _log.warning("%s: skipped %d invalid records, the first %s", self.origin, len(invalid), invalid[0])
        return self._sampled(self._cut(list(found.values())))

    def _none_left(self, invalid: Sequence[InvalidRecord]) -> DataError:
        first = f"; {len(invalid)} records are invalid, the first {invalid[0]}" if invalid else ""
        return DataError(f"{self.origin}: the data set has no passage{first}")

    def _problem(self, passage: Passage, places: Mapping[str, str]) -> str:
        if self.require_questions and not passage.questions:
            return f"title {shown(passage.title)}, has no question that can be answered"
        if passage.task_id in places:
            return f"title {shown(passage.title)}, the same title and context as {places[passage.task_id]}"
        return ""

    def _cut(self, passages: list[Passage]) -> list[Passage]:
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(passages)  # noqa: S311 - a sample, no secret
        self._check_number("limit", self.limit, len(passages), f"passages ({len(self.skipped)} records were skipped)")
        return passages[: self.limit]

    def _sampled(self, passages: list[Passage]) -> list[Passage]:
        """Return the passages with their sampled questions, all in their order."""
        if self.num_questions is None:
            return passages
        places = [(i, j) for i, passage in enumerate(passages) for j in range(len(passage.questions))]
        self._check_number("num_questions", self.num_questions, len(places), f"questions on {len(passages)} passages")
        random.Random(self.question_seed).shuffle(places)  # noqa: S311 - a sample, no secret
        drawn = set(places[: self.num_questions])
        return [
            replace(passage, questions=tuple(q for j, q in enumerate(passage.questions) if (i, j) in drawn))
            for i, passage in enumerate(passages)
        ]

    def _check_number(self, name: str, wanted: int | None, there: int, of: str) -> None:
        if wanted is not None and wanted > there:
            raise DataError(
                f"{self.origin}: {name} is {wanted}, but there are only {there} {of}. Lower it, or set null"
            )


@dataclass
class SquadJson(PassageSource):
    """File in SQuAD's format, v1.1 or v2; each paragraph is a passage. Questions marked impossible are dropped.

    Example:
        >>> rows = '{"data": [{"title": "A_Bridge", "paragraphs": [{"context": "Nine arches.", "qas": []}]}]}'
        >>> _ = Path("squad.json").write_text(rows)
        >>> SquadJson("squad.json", require_questions=False).load()[0].title
        'A Bridge'

    """

    path: str | Path

    @property
    def origin(self) -> str:
        """The file's path."""
        return str(self.path)

    def passages(self) -> Iterator[Located]:
        """Yield the file's paragraphs."""
        return squad_paragraphs(read_json(Path(self.path).expanduser()), self.path)


@dataclass
class BundledPassages(PassageSource):
    """The passages that are installed with the package: small splits that need no download.

    Example:
        >>> len(BundledPassages(split="train", limit=3).load())
        3

    """

    split: Split

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if self.split not in get_args(Split):
            raise ConfigError(
                f"BundledPassages: split is {shown(self.split)}; allowed are {', '.join(get_args(Split))}"
            )

    @property
    def origin(self) -> str:
        """The split's file."""
        return str(PASSAGES_DIRECTORY / f"{self.split}.json")

    def passages(self) -> Iterator[Located]:
        """Yield the split's paragraphs."""
        return squad_paragraphs(read_json(Path(self.origin)), self.origin)


@dataclass
class PassagesJson(PassageSource):
    """JSON file with a list of ``{title, context, questions: [{question, answer}]}``, as in the SEAL release.

    An answer is a text or a list of texts. Without ``require_questions``, ``questions`` may be missing.

    Example:
        >>> row = '{"title": "Bridge", "context": "Nine arches.", "questions": [{"question": "How many?", "answer": "nine"}]}'
        >>> _ = Path("bridge.json").write_text(f"[{row}]")
        >>> PassagesJson("bridge.json").load()[0].questions[0].answers
        ('nine',)

    """

    path: str | Path

    @property
    def origin(self) -> str:
        """The file's path."""
        return str(self.path)

    def passages(self) -> Iterator[Located]:
        """Yield the list's passages."""
        rows = read_json(Path(self.path).expanduser())
        if not isinstance(rows, list):
            raise DataError(f"{self.path}: must hold a list of passages; it is {json_kind(rows)}")
        for index, row in enumerate(rows):
            yield located(f"record {index}", partial(passage_of_row, row, self.require_questions))


@dataclass
class PassagesJsonl(PassagesJson):
    """As :class:`PassagesJson`, with one passage per line; blank lines are ignored.

    Example:
        >>> _ = Path("bridge.jsonl").write_text('{"title": "Bridge", "context": "It has nine arches."}')
        >>> PassagesJsonl("bridge.jsonl", require_questions=False).load()[0].title
        'Bridge'

    """

    def passages(self) -> Iterator[Located]:
        """Yield the lines' passages."""
        for index, (number, row) in enumerate(parse_lines(read_bytes(Path(self.path).expanduser()))):
            yield located(f"line {number} (record {index})", partial(passage_of_row, row, self.require_questions))


@dataclass
class HubDataset(PassageSource):
    """Data set with SQuAD's flat columns ``title``, ``context``, ``question`` and ``answers`` (with a list ``text``).

    Rows of one title and context make one passage, in first-seen order; rows without an answer (SQuAD v2) are dropped.

    Example:
        >>> HubDataset("rajpurkar/squad", split="validation").origin
        'data set rajpurkar/squad, split validation'

    """

    name: str
    """As for ``datasets.load_dataset``, for example ``rajpurkar/squad``, or a local directory."""
    split: str
    config: str | None = None
    revision: str | None = None
    """A branch, tag or commit; a commit for a data set that cannot change between runs."""

    @property
    def origin(self) -> str:
        """Name, configuration, revision and split."""
        config = f"/{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"data set {self.name}{config}{revision}, split {self.split}"

    def passages(self) -> Iterator[Located]:
        """Yield the grouped rows, after the invalid ones."""
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
            raise DataError(f"{self.origin}: is not a single split; give one, such as train")
        rows: Iterable[object] = loaded
        return rows
