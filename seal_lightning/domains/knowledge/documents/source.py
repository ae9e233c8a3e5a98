"""Documents as a source of passages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.domains.knowledge.documents.corpus import CorpusText, read_corpus
from seal_lightning.domains.knowledge.documents.extract import Extract, Unreadable
from seal_lightning.domains.knowledge.documents.files import FoundFile, found_files, named, read_file
from seal_lightning.domains.knowledge.documents.kinds import Kind, kind_of
from seal_lightning.domains.knowledge.documents.packing import CountTokens, Packing, estimated_tokens, num_words
from seal_lightning.domains.knowledge.documents.plain import read_plain
from seal_lightning.domains.knowledge.documents.reading import read_document, too_long
from seal_lightning.domains.knowledge.documents.sandbox import ReaderSandbox
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.records import InvalidRecord, RecordError
from seal_lightning.domains.knowledge.sources import Located, PassageSource, build_passage, located

_MIB = 2**20
_MEMORY_BYTES = 2 * 2**30
_FEWEST_TOKENS = 16
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class ReadDocument:
    """A document that was read."""

    path: str
    """As it was named, or below the folder as it was named; escaped where it cannot be printed."""
    sha256: str
    """Of the file's bytes."""
    kind: str
    """``text``, ``markdown``, ``html``, ``pdf``, ``squad``, ``json`` or ``jsonl``."""
    num_passages: int
    """That were taken from it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a passage comes from."""

    path: str
    """Of its document, as in :class:`ReadDocument`."""
    headings: tuple[str, ...] = ()
    """It stands under, outermost first; without the document's title."""
    page: int | None = None
    """≥ 1: where it begins, in a PDF."""
    order: int
    """≥ 0: its place among its document's passages."""


@dataclass(kw_only=True)
class Documents(PassageSource):
    """Text, Markdown, HTML, PDF and JSON files, split into passages at headings, paragraphs and sentences.

    Text, Markdown, HTML and PDF become passages without questions; SQuAD's files and passages in JSON stay as they are,
    with theirs. A file that cannot be used is left out and told in ``skipped``, and so is a passage that is there twice;
    of a JSON file's records that cannot be used the first is told, and their number. With
    ``skip_invalid: false`` the first ends the loading. Passages are in the order of their files' real paths.
    """

    paths: list[str]
    """Files and folders; of folders all files, but for hidden ones, links that lead out and folders of ``seal adapt``."""
    passage_tokens: int = 200
    """≥ 16: tokens of a passage of a text, at most, its title apart."""
    min_words: int = 8
    """≥ 1: a section with fewer words goes with its neighbour; a document with fewer is left out."""
    max_file_bytes: int = 64 * _MIB
    """≥ 1: a larger file is left out, unread."""
    max_chars: int = 5_000_000
    """≥ 1: a document with a longer text (some 1,700 pages) is left out."""
    max_seconds: float = 120.0
    """> 0: a Markdown, HTML or PDF file that takes its parser longer is left out."""
    max_files: int = 10_000
    """≥ 1: more are refused."""
    max_passages: int = 50_000
    """≥ 1: more are refused."""
    require_questions: bool = False
    skip_invalid: bool = True
    count_tokens: CountTokens = field(default_factory=lambda: estimated_tokens, init=False, repr=False, compare=False)
    """How a text's tokens are counted; who has a tokenizer sets it before :meth:`load`. Else they are estimated."""
    leave_out: tuple[Path, ...] = field(default=(), init=False, repr=False, compare=False)
    """Files and folders that are not read below the folders in ``paths``, by their real paths; they need not be there.
    Who writes somewhere while it learns sets it before :meth:`load`."""
    documents: tuple[ReadDocument, ...] = field(default=(), init=False, repr=False, compare=False)
    """What the last :meth:`load` read."""
    places: dict[str, Place] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Where the passages of the last :meth:`load` come from, by ``task_id``."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if isinstance(self.paths, (str, Path)) or not self.paths:
            raise ConfigError(f"Documents: paths is {shown(self.paths)}; it must be a list of at least one path")
        self.paths = [str(path) for path in self.paths]
        least = {"passage_tokens": _FEWEST_TOKENS}
        for name in ("passage_tokens", "min_words", "max_file_bytes", "max_chars", "max_files", "max_passages"):
            if getattr(self, name) < least.get(name, 1):
                raise ConfigError(
                    f"Documents: {name} is {shown(getattr(self, name))}; allowed is {least.get(name, 1)} or more"
                )
        if not self.max_seconds > 0:
            raise ConfigError(f"Documents: max_seconds is {shown(self.max_seconds)}; allowed is more than 0")

    @property
    def origin(self) -> str:
        """The first paths."""
        more = f" (and {len(self.paths) - _MOST_NAMED} more)" if len(self.paths) > _MOST_NAMED else ""
        return ", ".join(named(Path(path)) for path in sorted(self.paths)[:_MOST_NAMED]) + more

    def load(self) -> list[Passage]:
        """As :meth:`PassageSource.load`; ``documents`` and ``places`` are then of these passages.

        Raises :class:`DataError` for paths that are not there or cannot be read, where no file gives a passage, and for more
        than ``max_files`` or ``max_passages``; :class:`ConfigError` where what reads a file is not installed.
        """
        self._read: list[tuple[FoundFile, str, str]] = []
        self.places = {}
        passages = super().load()
        taken = {passage.task_id for passage in passages}
        self.places = {task_id: place for task_id, place in self.places.items() if task_id in taken}
        counts = dict.fromkeys((place.path for place in self.places.values()), 0)
        for place in self.places.values():
            counts[place.path] += 1
        self.documents = tuple(
            ReadDocument(path=named(file.path), sha256=digest, kind=kind, num_passages=counts.get(named(file.path), 0))
            for file, digest, kind in self._read
        )
        return passages

    def passages(self) -> Iterator[Located]:
        """Every document's passages, and in their places what could not be used."""
        files, beside = found_files(self.paths, self.max_files, self.leave_out)
        yield from ((record.where, RecordError(record.problem)) for record in beside)
        if not files:
            return
        number = 0
        with ReaderSandbox(max_seconds=self.max_seconds, max_memory_bytes=_MEMORY_BYTES) as apart:
            for file in files:
                for where, item in self._of_file(file, apart):
                    number += isinstance(item, Passage)
                    if number > self.max_passages:
                        raise DataError(
                            f"{self.origin}: the documents have more than {self.max_passages} passages (max_passages). "
                            "Name fewer, or allow more"
                        )
                    yield where, item

    def _none_left(self, invalid: Sequence[InvalidRecord]) -> DataError:
        told = "; ".join(f"{record.where}: {record.problem}" for record in invalid[:_MOST_NAMED])
        more = f" (and {len(invalid) - _MOST_NAMED} more)" if len(invalid) > _MOST_NAMED else ""
        found = f": {told}{more}" if invalid else ", since there is no file"
        return DataError(
            f"{self.origin}: no document gives a passage{found}. Name a text, Markdown, HTML, PDF or JSON file"
        )

    def _of_file(self, file: FoundFile, apart: ReaderSandbox) -> Iterator[Located]:
        path = named(file.path)
        try:
            content = read_file(file.path, self.max_file_bytes)
            kind = kind_of(file.path, content)
            digest = hashlib.sha256(content).hexdigest()
            if kind in ("json", "jsonl"):
                told, rows = read_corpus(kind, content, path, self.require_questions)
                self._read.append((file, digest, told))
                yield from self._counted(path, self._of_rows(file, rows))
                return
            extract = self._extract(kind, content, apart)
        except Unreadable as error:
            yield path, RecordError(str(error))
            return
        self._read.append((file, digest, kind))
        yield from ((path, RecordError(problem)) for problem in extract.left_out)
        yield from self._of_extract(path, path, extract.title or readable_name(file.path), extract, 0)

    def _extract(self, kind: Kind, content: bytes, apart: ReaderSandbox) -> Extract:
        read = read_document if kind == "text" else apart.read
        return read(kind, content, self.max_chars)

    def _counted(self, path: str, rows: Iterator[Located]) -> Iterator[Located]:
        """A file's rows; those that cannot be used are one at its end: a file may have a great many."""
        first: Located | None = None
        number = 0
        for where, item in rows:
            if isinstance(item, RecordError) and self.skip_invalid:
                first = first or (where, item)
                number += 1
            else:
                yield where, item
        if first is not None and number == 1:
            yield first
        elif first is not None:
            place = first[0].removeprefix(f"{path}: ")
            yield path, RecordError(f"{number} records cannot be used, the first: {place}: {first[1]}")

    def _of_rows(
        self, file: FoundFile, rows: Iterator[tuple[str, Passage | CorpusText | RecordError]]
    ) -> Iterator[Located]:
        path, order = named(file.path), 0
        for place, row in rows:
            where = f"{path}: {place}"
            if isinstance(row, CorpusText):
                if len(row.text) > self.max_chars:
                    yield where, RecordError(too_long(len(row.text), self.max_chars))
                    continue
                for item in self._of_extract(
                    path, where, row.title or readable_name(file.path), read_plain(row.text), order
                ):
                    order += isinstance(item[1], Passage)
                    yield item
                continue
            if isinstance(row, Passage):
                self.places.setdefault(row.task_id, Place(path=path, order=order))
                order += 1
            yield where, row

    def _of_extract(self, path: str, where: str, title: str, extract: Extract, order: int) -> Iterator[Located]:
        if sum(num_words(p.text) for section in extract.sections for p in section.paragraphs) < self.min_words:
            yield where, RecordError(f"has fewer than {self.min_words} words (min_words)")
            return
        packing = Packing(budget=self.passage_tokens, count=self.count_tokens, min_words=self.min_words)
        for piece in packing.pieces(extract.sections):
            full_title = " › ".join(dict.fromkeys((title, *piece.headings[-1:])))
            found = located(f"{where}, passage {order}", partial(build_passage, full_title, piece.text, ()))
            if isinstance(found[1], Passage):
                place = Place(path=path, headings=piece.headings, page=piece.page, order=order)
                self.places.setdefault(found[1].task_id, place)
            order += 1
            yield found


def readable_name(path: Path) -> str:
    """A file's name as a title: without its ending, ``_`` and ``-`` blanks, nothing that cannot be printed."""
    stem = "".join(c if c.isprintable() else " " for c in path.stem)
    return " ".join(re.sub(r"[_-]+", " ", stem).split())[:100] or "Document"
