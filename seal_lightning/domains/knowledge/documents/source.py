"""Documents as a source of passages."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import AliasChoices, Field

from seal_lightning.core.errors import ConfigError, DataError, shown
from seal_lightning.domains.json_records import (
    InvalidRecord,
    Record,
    RecordError,
    Text,
    json_kind,
    parse_json,
    parse_lines,
    validated,
)
from seal_lightning.domains.knowledge.documents.decoding import Kind, Unreadable, cleaned, kind_of, too_long
from seal_lightning.domains.knowledge.documents.files import FoundFile, find_files, printable, read_file
from seal_lightning.domains.knowledge.documents.markdown import ParsedDocument
from seal_lightning.domains.knowledge.documents.packing import CountTokens, Packing, estimated_tokens, num_words
from seal_lightning.domains.knowledge.documents.sandbox import ReaderSandbox
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.passage_records import (
    Located,
    build_passage,
    located,
    passage_of_row,
    squad_paragraphs,
)
from seal_lightning.domains.knowledge.passage_sources import PassageSource

_MEMORY_BYTES = 2 * 2**30
_FEWEST_TOKENS = 16
_MOST_NAMED = 3
_TEXT_KEYS = ("text", "content", "body", "page_content")


class _TextRow(Record):
    """A record of a corpus of texts."""

    text: Text = Field(validation_alias=AliasChoices(*_TEXT_KEYS))
    title: Text | None = None


@dataclass(frozen=True, kw_only=True)
class ReadDocument:
    """A document that was read."""

    path: str
    """As given, or below the folder as given; escaped where it cannot be printed."""
    sha256: str
    """Of the file's bytes."""
    kind: str
    """``text``, ``markdown``, ``html``, ``pdf``, ``squad``, ``json`` or ``jsonl``."""
    num_passages: int
    """Passages that were taken from it."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The origin of a passage."""

    path: str
    """Of its document, as in :class:`ReadDocument`."""
    headings: tuple[str, ...] = ()
    """Those it stands under, outermost first, without the document's title."""
    page: int | None = None
    """≥ 1: the page of a PDF on which it begins."""
    order: int
    """≥ 0: its index among its document's passages."""


@dataclass(kw_only=True)
class Documents(PassageSource):
    """Text, Markdown, HTML, PDF and JSON files, cut into passages at headings, paragraphs and sentences.

    Text, Markdown, HTML and PDF give passages without questions; SQuAD files and JSON passages keep their text and
    questions. Unusable files and repeated passages are skipped and listed in ``skipped``, invalid records of a JSON file
    as their number and the first one. With ``skip_invalid: false`` the first of these is an error. Passages are in the
    order of their files' real paths.

    Example:
        >>> _ = Path("guide.md").write_text("# Guide\\n\\nThe old bridge over the river has nine arches of stone.")
        >>> [(passage.title, passage.context[:14]) for passage in Documents(paths=["guide.md"]).load()]
        [('Guide', 'The old bridge')]

    """

    paths: list[str]
    """Files and folders. Folders give all files below, except hidden ones, links that lead out and folders of ``seal
    adapt``."""
    passage_tokens: int = 200
    """≥ 16: most tokens of a text's passage, without its title."""
    min_words: int = 8
    """≥ 1: a section with fewer words is joined to its neighbour; a document with fewer is skipped."""
    max_file_bytes: int = 64 * 2**20
    """≥ 1: a larger file is skipped unread."""
    max_chars: int = 5_000_000
    """≥ 1: a document with more text (some 1,700 pages) is skipped."""
    max_seconds: float = 120.0
    """> 0: a file that takes its parser longer is skipped."""
    max_files: int = 10_000
    """≥ 1: more files are an error."""
    max_passages: int = 50_000
    """≥ 1: more passages are an error."""
    require_questions: bool = False
    skip_invalid: bool = True
    count_tokens: CountTokens = field(default_factory=lambda: estimated_tokens, init=False, repr=False, compare=False)
    """Counts a text's tokens; set it before :meth:`load` to use a tokenizer instead of the estimate."""
    leave_out: tuple[Path, ...] = field(default=(), init=False, repr=False, compare=False)
    """Files and folders to skip below the folders in ``paths``, by real path; set it before :meth:`load`."""
    documents: tuple[ReadDocument, ...] = field(default=(), init=False, repr=False, compare=False)
    """The documents that the last :meth:`load` read."""
    places: dict[str, Place] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The origins of the passages of the last :meth:`load`, by ``task_id``."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        if isinstance(self.paths, (str, Path)) or not self.paths:
            raise ConfigError(f"Documents: paths is {shown(self.paths)}; it must be a list of at least one path")
        self.paths = [str(path) for path in self.paths]
        names = ("min_words", "max_file_bytes", "max_chars", "max_files", "max_passages")
        for name, least in (("passage_tokens", _FEWEST_TOKENS), *((name, 1) for name in names)):
            if getattr(self, name) < least:
                raise ConfigError(f"Documents: {name} is {shown(getattr(self, name))}; allowed is {least} or more")
        if not self.max_seconds > 0:
            raise ConfigError(f"Documents: max_seconds is {shown(self.max_seconds)}; allowed is more than 0")

    @property
    def origin(self) -> str:
        """The first paths."""
        more = f" (and {len(self.paths) - _MOST_NAMED} more)" if len(self.paths) > _MOST_NAMED else ""
        return ", ".join(printable(Path(path)) for path in sorted(self.paths)[:_MOST_NAMED]) + more

    def load(self) -> list[Passage]:
        """Return the passages as :meth:`PassageSource.load` does, and set ``documents`` and ``places`` accordingly.

        Raises :class:`DataError` for missing or unreadable paths, where no file gives a passage, and for more than
        ``max_files`` or ``max_passages``.
        """
        self._read: list[tuple[str, str, str]] = []  # path, digest, kind
        self.places = {}
        passages = super().load()
        taken = {passage.task_id for passage in passages}
        self.places = {task_id: place for task_id, place in self.places.items() if task_id in taken}
        counts = Counter(place.path for place in self.places.values())
        self.documents = tuple(
            ReadDocument(path=path, sha256=digest, kind=kind, num_passages=counts[path])
            for path, digest, kind in self._read
        )
        return passages

    def passages(self) -> Iterator[Located]:
        """Yield every document's passages and, in their places, what is skipped."""
        files, skipped = find_files(self.paths, self.max_files, self.leave_out)
        yield from ((record.where, RecordError(record.problem)) for record in skipped)
        number = 0
        with ReaderSandbox(max_seconds=self.max_seconds, max_memory_bytes=_MEMORY_BYTES) as sandbox:
            for file in files:
                for where, item in self._of_file(file, sandbox):
                    number += isinstance(item, Passage)
                    if number > self.max_passages:
                        raise DataError(
                            f"{self.origin}: the documents have more than {self.max_passages} passages (max_passages). "
                            "Name fewer, or allow more"
                        )
                    yield where, item

    def _none_left(self, invalid: Sequence[InvalidRecord]) -> DataError:
        listed = "; ".join(map(str, invalid[:_MOST_NAMED]))
        more = f" (and {len(invalid) - _MOST_NAMED} more)" if len(invalid) > _MOST_NAMED else ""
        found = f": {listed}{more}" if invalid else ", since there is no file"
        return DataError(
            f"{self.origin}: no document gives a passage{found}. Name a text, Markdown, HTML, PDF or JSON file"
        )

    def _of_file(self, file: FoundFile, sandbox: ReaderSandbox) -> Iterator[Located]:
        path = printable(file.path)
        try:
            content = read_file(file.path, self.max_file_bytes)
            kind = kind_of(file.path, content)
            digest = hashlib.sha256(content).hexdigest()
            if kind in ("json", "jsonl"):
                name, rows = _rows(kind, content, path)
                self._read.append((path, digest, name))
                yield from self._summarised(path, self._of_rows(file, rows, sandbox))
                return
            parsed = sandbox.read(kind, content, self.max_chars)
        except Unreadable as error:
            yield path, RecordError(str(error))
            return
        self._read.append((path, digest, kind))
        yield from ((path, RecordError(note)) for note in parsed.notes)
        yield from self._of_document(path, path, parsed.title or readable_name(file.path), parsed, 0)

    def _summarised(self, path: str, rows: Iterator[Located]) -> Iterator[Located]:
        """Yield a file's rows, and its invalid ones as one at the end: a file may have a great many."""
        invalid: list[Located] = []
        for where, item in rows:
            if isinstance(item, RecordError) and self.skip_invalid:
                invalid.append((where, item))
            else:
                yield where, item
        if len(invalid) == 1:
            yield invalid[0]
        elif invalid:
            where, problem = invalid[0]
            first = f"{where.removeprefix(f'{path}: ')}: {problem}"
            yield path, RecordError(f"{len(invalid)} records cannot be used, the first: {first}")

    def _of_rows(
        self, file: FoundFile, rows: Iterator[tuple[str, object]], sandbox: ReaderSandbox
    ) -> Iterator[Located]:
        path, order = printable(file.path), 0
        for place, row in rows:
            where = f"{path}: {place}"
            try:
                if isinstance(row, dict) and "context" not in row and any(key in row for key in _TEXT_KEYS):
                    record = validated(_TextRow, row)
                    text = cleaned(record.text)
                    if len(text) > self.max_chars:
                        raise RecordError(too_long(len(text), self.max_chars))
                    parsed = sandbox.read("text", text.encode(), self.max_chars)
                    title = record.title or readable_name(file.path)
                    found = list(self._of_document(path, where, title, parsed, order))
                else:
                    passage = row if isinstance(row, Passage) else passage_of_row(row, self.require_questions)
                    self.places.setdefault(passage.task_id, Place(path=path, order=order))
                    found = [(where, passage)]
            except (RecordError, Unreadable) as error:
                found = [(where, RecordError(str(error)))]
            order += sum(isinstance(item, Passage) for _, item in found)
            yield from found

    def _of_document(self, path: str, where: str, title: str, parsed: ParsedDocument, order: int) -> Iterator[Located]:
        if sum(num_words(p.text) for section in parsed.sections for p in section.paragraphs) < self.min_words:
            yield where, RecordError(f"has fewer than {self.min_words} words (min_words)")
            return
        packing = Packing(budget=self.passage_tokens, count=self.count_tokens, min_words=self.min_words)
        for number, piece in enumerate(packing.pieces(parsed.sections), start=order):
            full_title = " › ".join(dict.fromkeys((title, *piece.headings[-1:])))
            found = located(f"{where}, passage {number}", partial(build_passage, full_title, piece.text, ()))
            if isinstance(found[1], Passage):
                place = Place(path=path, headings=piece.headings, page=piece.page, order=number)
                self.places.setdefault(found[1].task_id, place)
            yield found


def _rows(kind: Kind, content: bytes, path: str) -> tuple[str, Iterator[tuple[str, object]]]:
    """Return the name of a JSON file's format (``squad``, ``json`` or ``jsonl``) and its records.

    A record is a passage, a JSON value or :class:`RecordError`. Raises :class:`Unreadable` for another format.
    """
    if kind == "jsonl":
        lines = enumerate(parse_lines(content))
        return "jsonl", ((f"line {number} (record {index})", row) for index, (number, row) in lines)
    try:
        value = parse_json(content)
    except RecordError as error:
        raise Unreadable(str(error)) from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return "squad", squad_paragraphs(value, path)
    if isinstance(value, dict) and {"context", *_TEXT_KEYS} & value.keys():
        value = [value]
    if not isinstance(value, list):
        allowed = "SQuAD's object with a list 'data', a list of passages or a list of texts"
        raise Unreadable(f"must hold {allowed}; it is {json_kind(value)}")
    return "json", ((f"record {index}", row) for index, row in enumerate(value))


def readable_name(path: Path) -> str:
    """Return a file's name as a title: without its suffix, ``_`` and ``-`` as blanks, printable."""
    stem = "".join(c if c.isprintable() else " " for c in path.stem)
    return " ".join(re.sub(r"[_-]+", " ", stem).split())[:100] or "Document"
