"""What all passage sources share; the sources themselves are in ``squad.py``, ``passages_json.py`` and ``hub.py``."""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.knowledge.passage import Passage, Question, passage_id
from seal_lightning.domains.knowledge.records import InvalidRecord, RecordError

_log = logging.getLogger(__name__)

Located = tuple[str, Passage | RecordError]
"""A record's place in its data set, and the passage it is or why it is none."""


@dataclass(kw_only=True)
class PassageSource(TaskSource):
    """The base of all passage sources; a subclass says where its records are."""

    limit: int | None = None
    """≥ 1: only the first so many passages, and there must be so many; None takes all."""
    shuffle_seed: int | None = None
    """Shuffle the passages with this seed before ``limit`` cuts; SQuAD's files have an article's passages in a row."""
    skip_invalid: bool = False
    """Leave invalid records out, with a warning, instead of refusing the whole data set."""
    num_questions: int | None = None
    """≥ 1: of the questions of all passages taken, only so many, sampled; None takes all. Passages that are left without
    a question stay: they are learned, not examined."""
    question_seed: int = 42
    """Samples the questions. A smaller ``num_questions`` with the same seed takes some of the same."""
    require_questions: bool = True
    """Whether a passage without a question that can be answered is invalid. ``seal predict`` needs no questions; all that
    measures something does."""
    skipped: tuple[InvalidRecord, ...] = field(default=(), init=False, repr=False, compare=False)
    """What the last :meth:`load` left out."""

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
        """Every record, in the order of the data set. Raises :class:`DataError` when it cannot be read at all."""

    def load(self) -> list[Passage]:
        """All passages, up to ``limit``, in the order of the data set.

        Raises :class:`DataError` when the data set is missing, empty or unreadable, and, without ``skip_invalid``, at
        the first invalid record. Invalid too are a passage without an answerable question (see ``require_questions``)
        and one given twice. Raises it also when there are fewer passages than ``limit`` or questions than
        ``num_questions``.
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
                    f"{self.origin}: {where}: {problem}. "
                    "Correct the record, or set skip_invalid to leave such records out"
                )
            invalid.append(InvalidRecord(where=where, problem=problem))
        self.skipped = tuple(invalid)
        first = f"{invalid[0].where}: {invalid[0].problem}" if invalid else ""
        if not found:
            raise self._none_left(invalid)
        if invalid:
            _log.warning("%s: left out %d invalid records, the first at %s", self.origin, len(invalid), first)
        return self._sampled(self._cut(list(found.values())))

    def _none_left(self, invalid: Sequence[InvalidRecord]) -> DataError:
        """What to say where no record is a passage that is taken."""
        first = f"{invalid[0].where}: {invalid[0].problem}" if invalid else ""
        told = f"; {len(invalid)} records are invalid, the first at {first}" if invalid else ""
        return DataError(f"{self.origin}: the data set has no passage{told}")

    def _problem(self, passage: Passage, places: Mapping[str, str]) -> str:
        """Why a passage is not taken, though its record is one; empty when it is."""
        if self.require_questions and not passage.questions:
            return f"title {shown(passage.title)}, has no question that can be answered"
        if passage.task_id in places:
            return f"title {shown(passage.title)}, the same title and context as {places[passage.task_id]}"
        return ""

    def _cut(self, passages: list[Passage]) -> list[Passage]:
        if self.shuffle_seed is not None:
            random.Random(self.shuffle_seed).shuffle(passages)  # noqa: S311 - a sample, no secret
        if self.limit is not None and self.limit > len(passages):
            left_out = f" ({len(self.skipped)} invalid records were left out)" if self.skipped else ""
            raise self._too_few("limit", self.limit, len(passages), f"passages{left_out}")
        return passages[: self.limit]

    def _sampled(self, passages: list[Passage]) -> list[Passage]:
        """The passages in their order, each with those of its questions that were drawn, in their order."""
        if self.num_questions is None:
            return passages
        places = [(i, j) for i, passage in enumerate(passages) for j in range(len(passage.questions))]
        if self.num_questions > len(places):
            of = f"questions on the {len(passages)} passages taken"
            raise self._too_few("num_questions", self.num_questions, len(places), of)
        random.Random(self.question_seed).shuffle(places)  # noqa: S311 - a sample, no secret
        drawn = set(places[: self.num_questions])
        return [
            replace(passage, questions=tuple(q for j, q in enumerate(passage.questions) if (i, j) in drawn))
            for i, passage in enumerate(passages)
        ]

    def _too_few(self, name: str, wanted: int, there: int, of: str) -> DataError:
        allowed = f"1 to {there}, or null for all" if there else "null"
        return DataError(f"{self.origin}: {name} is {wanted}, but there are {there} {of}; allowed is {allowed}")


def located(where: str, build: Callable[[], Passage]) -> Located:
    """The record at this place, built, or why it cannot be."""
    try:
        return where, build()
    except RecordError as error:
        return where, error


def build_passage(title: str, context: str, questions: Iterable[tuple[str | None, str, list[str]]]) -> Passage:
    """A passage from its parts; questions are (id or None, question, gold answers).

    A question without an id gets the passage's with its number; answers that are given twice are kept once, in order.
    Raises :class:`RecordError` when an id is given twice.
    """
    task_id = passage_id(title, context)
    built: dict[str, Question] = {}
    for number, (given_id, text, answers) in enumerate(questions):
        question_id = given_id or f"{task_id}-q{number}"
        if question_id in built:
            raise RecordError(f"title {shown(title)}, has the question id {shown(question_id)} twice")
        built[question_id] = Question(question_id=question_id, question=text, answers=tuple(dict.fromkeys(answers)))
    return Passage(task_id=task_id, title=title, context=context, questions=tuple(built.values()))
