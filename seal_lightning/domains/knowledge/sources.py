"""What all passage sources share; the sources themselves are in ``squad.py``, ``passages_json.py`` and ``hub.py``."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from seal_lightning.domains.knowledge.passage import Passage, Question, passage_id
from seal_lightning.domains.knowledge.records import InvalidRecord, RecordError
from seal_lightning.errors import ConfigError, DataError, shown
from seal_lightning.seams import TaskSource

_log = logging.getLogger(__name__)

Located = tuple[str, Passage | RecordError]
"""A record's place in its data set, and the passage it is or why it is none."""


@dataclass(kw_only=True)
class PassageSource(TaskSource):
    """The base of all passage sources; a subclass says where its records are."""

    limit: int | None = None
    """≥ 1: only the first so many passages; None takes all."""
    shuffle_seed: int | None = None
    """Shuffle the passages with this seed before ``limit`` cuts; SQuAD's files have an article's passages in a row."""
    skip_invalid: bool = False
    """Leave invalid records out, with a warning, instead of refusing the whole data set."""
    skipped: tuple[InvalidRecord, ...] = field(default=(), init=False, repr=False, compare=False)
    """What the last :meth:`load` left out."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        if self.limit is not None and self.limit < 1:
            raise ConfigError(
                f"{type(self).__name__}: limit is {shown(self.limit)}; allowed is 1 or more, or null for all"
            )

    @property
    @abstractmethod
    def origin(self) -> str:
        """The data set's name in messages."""

    @abstractmethod
    def passages(self) -> Iterator[Located]:
        """Every record, in the order of the data set. Raises :class:`DataError` when it cannot be read at all."""

    def load(self) -> list[Passage]:
        """All passages, up to ``limit``, in the order of the data set.

        Raises :class:`DataError` when the data set is missing, empty or unreadable, and, without ``skip_invalid``, at
        the first invalid record. Invalid too are a passage without an answerable question and one given twice.
        """
        found: dict[str, Passage] = {}
        places: dict[str, str] = {}
        invalid: list[InvalidRecord] = []
        for where, item in self.passages():
            if isinstance(item, Passage) and item.task_id not in found:
                found[item.task_id] = item
                places[item.task_id] = where
                continue
            problem = str(item) if isinstance(item, RecordError) else _repeated(item, places[item.task_id])
            if not self.skip_invalid:
                raise DataError(
                    f"{self.origin}: {where}: {problem}. "
                    "Correct the record, or set skip_invalid to leave such records out"
                )
            invalid.append(InvalidRecord(where=where, problem=problem))
        self.skipped = tuple(invalid)
        first = f"{invalid[0].where}: {invalid[0].problem}" if invalid else ""
        if not found:
            told = f"; {len(invalid)} records are invalid, the first at {first}" if invalid else ""
            raise DataError(f"{self.origin}: the data set has no passage{told}")
        if invalid:
            _log.warning("%s: left out %d invalid records, the first at %s", self.origin, len(invalid), first)
        passages = list(found.values())
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(passages)  # noqa: S311 - a sample, no secret
        return passages[: self.limit]


def _repeated(passage: Passage, first_place: str) -> str:
    return f"title {shown(passage.title)}, the same title and context as {first_place}"


def located(where: str, build: Callable[[], Passage]) -> Located:
    """The record at this place, built, or why it cannot be."""
    try:
        return where, build()
    except RecordError as error:
        return where, error


def build_passage(title: str, context: str, questions: Iterable[tuple[str | None, str, list[str]]]) -> Passage:
    """A passage from its parts; questions are (id or None, question, gold answers).

    A question without an id gets the passage's with its number; answers that are given twice are kept once, in order.
    Raises :class:`RecordError` when there is no question, or an id is given twice.
    """
    task_id = passage_id(title, context)
    built: dict[str, Question] = {}
    for number, (given_id, text, answers) in enumerate(questions):
        question_id = given_id or f"{task_id}-q{number}"
        if question_id in built:
            raise RecordError(f"title {shown(title)}, has the question id {shown(question_id)} twice")
        built[question_id] = Question(question_id=question_id, question=text, answers=tuple(dict.fromkeys(answers)))
    if not built:
        raise RecordError(f"title {shown(title)}, has no question that can be answered")
    return Passage(task_id=task_id, title=title, context=context, questions=tuple(built.values()))
