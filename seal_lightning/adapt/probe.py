"""What a model should still know after an adaptation: 48 questions of general knowledge, a probe of forgetting. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.passage import Passage, Question

PROBE_FILE = Path(__file__).with_name("general_knowledge.jsonl")
"""One question a line: ``id``, ``question``, four ``choices`` and the right one's index as ``answer``."""
PROBE_TITLE = "General knowledge"
NUM_CHOICES = 4

_Text = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]


@dataclass(frozen=True, kw_only=True)
class ProbeQuestion:
    """A question with the answers to choose from."""

    question_id: str
    question: str
    choices: tuple[str, ...]
    """:data:`NUM_CHOICES` different ones."""
    answer: int
    """The right choice's index, from 0."""

    @property
    def gold(self) -> str:
        """The right choice."""
        return self.choices[self.answer]


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]
    question: _Text
    choices: Annotated[list[_Text], Field(min_length=NUM_CHOICES, max_length=NUM_CHOICES)]
    answer: Annotated[int, Field(ge=0, lt=NUM_CHOICES)]


@lru_cache(maxsize=1)
def probe_questions() -> tuple[ProbeQuestion, ...]:
    """The questions that come with this package, in the file's order."""
    return parse_probe(PROBE_FILE.read_text(encoding="utf-8"), PROBE_FILE.name)


def parse_probe(text: str, where: str) -> tuple[ProbeQuestion, ...]:
    """The questions of JSON lines; blank lines are ignored.

    Raises :class:`DataError`, which names the line: for what is no such question, for an id that was there before, for
    equal choices, and where there is no question at all.
    """
    found: dict[str, ProbeQuestion] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        question = _question(line, f"{where}: line {number}")
        if question.question_id in found:
            raise DataError(f"{where}: line {number}: the id {shown(question.question_id)} was there before")
        found[question.question_id] = question
    if not found:
        raise DataError(f"{where}: has no question; one a line is needed")
    return tuple(found.values())


def probe_passages(questions: Sequence[ProbeQuestion] | None = None) -> tuple[Passage, ...]:
    """The questions as passages of one question each, to be asked as an exam: standard errors are then over questions.

    Their context is the question itself, which nobody is shown: a probe is not adapted to. By default those of this package.
    """
    return tuple(
        Passage(
            task_id=f"probe-{each.question_id}",
            title=PROBE_TITLE,
            context=each.question,
            questions=(Question(question_id=each.question_id, question=each.question, answers=(each.gold,)),),
        )
        for each in (probe_questions() if questions is None else questions)
    )


def _question(line: str, where: str) -> ProbeQuestion:
    try:
        row = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{where}: {field + ': ' if field else ''}{first['msg']}; it is {shown(first['input'])}"
        ) from error
    if len({choice.casefold() for choice in row.choices}) < NUM_CHOICES:
        raise DataError(f"{where}: choices: must differ; they are {shown(row.choices)}")
    return ProbeQuestion(question_id=row.id, question=row.question, choices=tuple(row.choices), answer=row.answer)
