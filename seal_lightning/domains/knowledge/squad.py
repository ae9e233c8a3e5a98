"""Passages from files in SQuAD's format, v1.1 or v2, among them those that are installed with the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.records import (
    RecordError,
    SquadParagraph,
    SquadQuestion,
    json_kind,
    read_json,
    validated,
)
from seal_lightning.domains.knowledge.sources import Located, PassageSource, build_passage, located

PASSAGES_DIRECTORY = Path(__file__).with_name("passages")
"""The data that is installed with the package."""

_SPLITS = ("train", "validation", "test")


@dataclass
class SquadJson(PassageSource):
    """A file in SQuAD's format, v1.1 or v2; a paragraph is a passage. Questions marked impossible are left out."""

    path: str | Path

    @property
    def origin(self) -> str:
        """The file's path."""
        return str(self.path)

    def passages(self) -> Iterator[Located]:
        """The file's paragraphs."""
        path = Path(self.path).expanduser()
        return paragraphs(read_json(path), path)


@dataclass
class BundledPassages(PassageSource):
    """The passages that are installed with the package: small splits that need no download."""

    split: Literal["train", "validation", "test"]

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if self.split not in _SPLITS:
            raise ConfigError(f"BundledPassages: split is {shown(self.split)}; allowed are {', '.join(_SPLITS)}")

    @property
    def origin(self) -> str:
        """The split's file."""
        return str(PASSAGES_DIRECTORY / f"{self.split}.json")

    def passages(self) -> Iterator[Located]:
        """The split's paragraphs."""
        return paragraphs(read_json(Path(self.origin)), self.origin)


def paragraphs(content: object, path: str | Path) -> Iterator[Located]:
    """The paragraphs in what a file of SQuAD's format holds. Raises :class:`DataError` where it is of another format."""
    articles = content.get("data") if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(articles, list):
        raise DataError(f"{path}: must hold an object with a list 'data', as SQuAD has it; it is {json_kind(content)}")
    for index, article in enumerate(articles):
        where = f"data[{index}]"
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(article, dict) or not isinstance(paragraphs, list):
            yield where, RecordError("must be an object with a text 'title' and a list 'paragraphs'")
            continue
        title = {"title": article["title"]} if "title" in article else {}
        for number, paragraph in enumerate(paragraphs):
            row = {**paragraph, **title} if isinstance(paragraph, dict) else paragraph
            yield located(f"{where}.paragraphs[{number}]", partial(_passage, row))


def _passage(row: object) -> Passage:
    record = validated(SquadParagraph, row)
    asked = [(question.id, question.question, _answers(i, question)) for i, question in enumerate(record.qas)]
    return build_passage(record.title, record.context, [question for question in asked if question[2]])


def _answers(index: int, question: SquadQuestion) -> list[str]:
    if question.is_impossible:
        return []
    if not question.answers:
        raise RecordError(f"field 'qas[{index}].answers': must have at least one item unless is_impossible is true")
    return [answer.text for answer in question.answers]
