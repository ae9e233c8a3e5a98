"""Worked examples: passages with a model answer in every prompt format, for few-shot prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.records import ListOf, Record, RecordError, Text, json_kind, read_json, validated
from seal_lightning.domains.knowledge.squad import PASSAGES_DIRECTORY

BUNDLED_EXAMPLES = PASSAGES_DIRECTORY / "examples.json"


@dataclass(frozen=True, kw_only=True)
class WorkedExample:
    """A passage and what a good self-edit of it looks like."""

    title: str
    context: str
    implications: tuple[str, ...]
    rewrites: tuple[str, ...]
    self_qa: tuple[tuple[str, str], ...]
    """Pairs of question and answer."""
    reasoning: str
    """Thoughts on the passage, as they come before the implications of a chain of thought."""


class _QuestionAnswer(Record):
    question: Text
    answer: Text


class _ExampleRow(Record):
    title: Text
    context: Text
    implications: ListOf[Text]
    rewrites: ListOf[Text]
    self_qa: ListOf[_QuestionAnswer]
    reasoning: Text


def load_examples(path: str | Path = BUNDLED_EXAMPLES) -> tuple[WorkedExample, ...]:
    """The worked examples of a JSON file, in its order. Raises :class:`DataError`."""
    rows = read_json(Path(path).expanduser())
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: must hold a list of at least one worked example; it is {json_kind(rows)}")
    return tuple(_example(f"{path}: record {index}", row) for index, row in enumerate(rows))


def _example(where: str, value: object) -> WorkedExample:
    try:
        row = validated(_ExampleRow, value)
    except RecordError as error:
        raise DataError(f"{where}: {error}") from error
    empty = [name for name in ("implications", "rewrites", "self_qa") if not getattr(row, name)]
    if empty:
        raise DataError(f"{where}: title {shown(row.title)}, field '{empty[0]}': must have at least one item")
    return WorkedExample(
        title=row.title,
        context=row.context,
        implications=tuple(row.implications),
        rewrites=tuple(row.rewrites),
        self_qa=tuple((pair.question, pair.answer) for pair in row.self_qa),
        reasoning=row.reasoning,
    )
