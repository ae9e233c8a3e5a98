"""Worked examples: passages with a good self-edit in every format, shown to the policy in a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from seal_lightning.core.errors import DataError
from seal_lightning.domains.json_records import Record, RecordError, Text, json_kind, read_json, validated
from seal_lightning.domains.knowledge.passage_sources import PASSAGES_DIRECTORY

BUNDLED_EXAMPLES = PASSAGES_DIRECTORY / "examples.json"


@dataclass(frozen=True, kw_only=True)
class WorkedExample:
    """A passage with a good self-edit in every format.

    Example:
        >>> load_examples()[0].self_qa[0][0].endswith("?")
        True

    """

    title: str
    context: str
    implications: tuple[str, ...]
    rewrites: tuple[str, ...]
    self_qa: tuple[tuple[str, str], ...]
    """Pairs of question and answer."""
    reasoning: str
    """Thoughts on the passage, which precede the implications of a chain of thought."""


class _QuestionAnswer(Record):
    question: Text
    answer: Text


class _ExampleRow(Record):
    title: Text
    context: Text
    implications: Annotated[list[Text], Field(min_length=1)]
    rewrites: Annotated[list[Text], Field(min_length=1)]
    self_qa: Annotated[list[_QuestionAnswer], Field(min_length=1)]
    reasoning: Text


def load_examples(path: str | Path = BUNDLED_EXAMPLES) -> tuple[WorkedExample, ...]:
    """Return the worked examples of a JSON file, in its order. Raises :class:`DataError`."""
    rows = read_json(Path(path).expanduser())
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: must hold a list of at least one worked example; it is {json_kind(rows)}")
    examples = []
    for index, value in enumerate(rows):
        try:
            row = validated(_ExampleRow, value)
        except RecordError as error:
            raise DataError(f"{path}: record {index}: {error}") from error
        examples.append(
            WorkedExample(
                title=row.title,
                context=row.context,
                implications=tuple(row.implications),
                rewrites=tuple(row.rewrites),
                self_qa=tuple((pair.question, pair.answer) for pair in row.self_qa),
                reasoning=row.reasoning,
            )
        )
    return tuple(examples)
