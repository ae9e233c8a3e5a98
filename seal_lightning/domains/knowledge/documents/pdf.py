"""PDF to Markdown by pypdf: the text of the pages, under the headings of the outline.

Only page contents, the outline and the title are read: no script, form, action, attachment or link.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pypdf
from pypdf.errors import DependencyError, PyPdfError

from seal_lightning.domains.knowledge.documents.decoding import Unreadable, cleaned
from seal_lightning.domains.knowledge.documents.markdown import Markdown, escaped, page_mark, starts_item

_MOST_PAGES = 5_000
_MOST_STREAM_BYTES = 32 * 2**20
"""Of a page's decompressed content; a printed page has about 10 KiB."""
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_HYPHEN = re.compile(r"([^\W\d_]+)-$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’»)\]]*$")
_SHORT_LINE = 0.8
"""A line that ends a sentence and is shorter than this share of the page's longer lines ends a paragraph."""
_NO_TITLE = re.compile(r"untitled|microsoft (word|powerpoint)|\.(docx?|pdf|tex|dvi|indd|qxd|odt|pptx?)$", re.IGNORECASE)
_MOST_TITLE_CHARS = 200
_MARGIN_LINES = 2
"""Lines at the top and the bottom of a page that can be a running header or footer."""
_REPEATED_SHARE, _FEWEST_PAGES = 0.5, 4
_MOST_NUMBERED_CHARS = 80
_DAMAGE = (
    PyPdfError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    ArithmeticError,
    OSError,
    RecursionError,
)
"""Exceptions that pypdf raises for damaged files."""

Page = list[str]
"""Its lines, none blank."""
Headings = dict[int, list[tuple[int, str]]]
"""(Level, heading) in order, by page, counted from 1."""


def pdf_to_markdown(content: bytes) -> Markdown:
    """Convert a PDF, without running headers and footers; words hyphenated at line ends are joined.

    Raises :class:`Unreadable` for one that is encrypted, damaged or without text.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity
    with pypdf.apply_configuration(
        zlib_maximum_output_length=_MOST_STREAM_BYTES,
        lzw_maximum_output_length=_MOST_STREAM_BYTES,
        run_length_maximum_output_length=_MOST_STREAM_BYTES,
        array_based_stream_maximum_output_length=_MOST_STREAM_BYTES,
        maximum_declared_stream_length=2 * _MOST_STREAM_BYTES,
    ):
        try:
            reader = pypdf.PdfReader(io.BytesIO(content))
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unreadable("is encrypted and needs a password; save a copy without one")
            return _convert(reader)
        except DependencyError as error:
            raise Unreadable("is encrypted (AES); save a copy that is not, or `pip install cryptography`") from error
        except _DAMAGE as error:
            raise Unreadable(f"is a damaged PDF ({type(error).__name__})") from error


def _convert(reader: Any) -> Markdown:
    num_pages = len(reader.pages)
    if num_pages > _MOST_PAGES:
        raise Unreadable(f"has {num_pages} pages; allowed are {_MOST_PAGES}. Split it")
    pages: list[Page] = []
    damaged: list[int] = []
    for number in range(num_pages):
        try:
            text = cleaned(str(reader.pages[number].extract_text()).translate(_LIGATURES))
        except _DAMAGE:
            text = ""
            damaged.append(number + 1)
        pages.append([line for line in (" ".join(line.split()) for line in text.split("\n")) if line])
    if not any(pages):
        if damaged:
            raise Unreadable("is a damaged PDF: no page can be read")
        raise Unreadable("is a PDF without text, perhaps scanned; run optical character recognition (OCR) on it first")
    blank = [number for number, page in enumerate(pages, start=1) if not page and number not in damaged]
    notes = (*_note("could not be read", damaged), *_note("have no text (scanned or blank)", blank))
    return Markdown(
        text="\n\n".join(_blocks(without_margins(pages), _outline(reader))), title=_title(reader), notes=notes
    )


def _note(problem: str, pages: list[int]) -> list[str]:
    listed = ", ".join(map(str, pages[:5])) + (" …" if len(pages) > 5 else "")
    return [f"{len(pages)} pages {problem}: {listed}"] if pages else []


def _title(reader: Any) -> str | None:
    try:
        title = " ".join(cleaned(str(reader.metadata.title or "")).split())[:_MOST_TITLE_CHARS]
    except Exception:  # noqa: BLE001 - a damaged title does not cost the document
        return None
    return None if not title or _NO_TITLE.search(title) else title


def _outline(reader: Any) -> Headings:
    found: Headings = {}

    def walk(entries: Sequence[Any], level: int) -> None:
        for entry in entries:
            if isinstance(entry, list):
                walk(entry, level + 1)
                continue
            number = reader.get_destination_page_number(entry)
            title = " ".join(cleaned(str(entry.title)).split())
            if number is not None and number >= 0 and title:
                found.setdefault(number + 1, []).append((min(level, 6), title))

    try:
        walk(reader.outline, 1)
    except Exception:  # noqa: BLE001 - a damaged outline does not cost the document
        return {}
    return found


def _blocks(pages: list[Page], headings: Headings) -> Iterator[str]:
    """Yield the blocks of Markdown in order. A paragraph can continue on the next page."""
    words = Counter(
        word.lower() for page in pages for line in page for word in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", line)
    )
    lines: list[str] = []
    begun = marked = 0

    def end_paragraph() -> Iterator[str]:
        nonlocal marked
        if lines:
            if begun != marked:
                marked = begun
                yield page_mark(begun)
            yield _unwrapped(lines, words)
            lines.clear()

    for number, page in enumerate(pages, start=1):
        width = sorted(map(len, page))[len(page) * 9 // 10] if page else 0
        waiting = list(headings.get(number, ()))
        index = 0
        while index < len(page) or waiting:
            heading = waiting[0][1] if waiting else ""
            place = next((i for i in range(index, len(page)) if waiting and _heading_length(page, i, heading)), index)
            if waiting and place == index:  # a heading missing in the text stands above the rest
                yield from end_paragraph()
                yield f"{'#' * waiting.pop(0)[0]} {escaped(heading)}"
                index += _heading_length(page, index, heading)
                continue
            begun = begun if lines else number
            lines.append(page[index])
            if _SENTENCE_END.search(page[index]) and len(page[index]) < _SHORT_LINE * width:
                yield from end_paragraph()
            index += 1
    yield from end_paragraph()


def _heading_length(page: Page, index: int, heading: str) -> int:
    """Return how many lines from ``index`` are the heading, perhaps behind a number; 0 where they are other text."""
    wanted, text = _letters(heading), ""
    for length, line in enumerate(page[index : index + 3], start=1):
        text += _letters(line)
        if (wanted and text in (wanted, re.sub(r"^[\divx.]+", "", wanted))) or re.sub(r"^\d+", "", text) == wanted:
            return length
        if len(text) > len(wanted) + 8:
            break
    return 0


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def _unwrapped(lines: list[str], words: Counter[str]) -> str:
    """Join a paragraph's lines, except list items.

    A hyphen at a line's end is dropped unless the document has the hyphenated word more often than the joined one.
    """
    joined: list[str] = []
    for line in lines:
        broken = _HYPHEN.search(joined[-1]) if joined else None
        rest = _FIRST_WORD.match(line)
        if broken and rest and rest[0][0].islower():
            first, second = broken[1].lower(), rest[0].lower()
            stays = words[f"{first}-{second}"] > words[first + second]
            joined[-1] = (joined[-1] if stays else joined[-1][:-1]) + line
        elif joined and not starts_item(line):
            joined[-1] += f"\n{line}"
        else:
            joined.append(line)
    return "\\\n".join("\n".join(map(escaped, text.split("\n"))) for text in joined)


def without_margins(pages: Sequence[Page]) -> list[Page]:
    """Return the pages without running headers and footers.

    These are first and last lines that half of the pages have, or that begin or end with the page's number. A number is
    the page's where it has the same distance from the page's index on half of the pages. No page is emptied, and fewer
    than four pages have no margins.
    """
    filled = [page for page in pages if page]
    least = max(_FEWEST_PAGES - 1, _REPEATED_SHARE * len(filled))
    if len(filled) < _FEWEST_PAGES:
        return list(pages)
    margins = [{*page[:_MARGIN_LINES], *page[-_MARGIN_LINES:]} for page in pages]
    seen = Counter(line for margin in margins for line in margin)
    offsets = Counter(
        offset
        for number, margin in enumerate(margins)
        for offset in {offset for line in margin for offset in _offsets(line, number)}
    )

    def is_running(line: str, number: int) -> bool:
        return seen[line] >= least or any(offsets[offset] >= least for offset in _offsets(line, number))

    kept = []
    for number, page in enumerate(pages):
        start, end = 0, len(page)
        while start < min(_MARGIN_LINES, end - 1) and is_running(page[start], number):
            start += 1
        while end > max(len(page) - _MARGIN_LINES, start + 1) and is_running(page[end - 1], number):
            end -= 1
        kept.append(page[start:end])
    return kept


def _offsets(line: str, page: int) -> set[int]:
    """Return the distances of the numbers at a short line's ends from the page's index."""
    if len(line) > _MOST_NUMBERED_CHARS:
        return set()
    numbers = [*re.findall(r"^\D{0,6}(\d{1,4})\b", line), *re.findall(r"\b(\d{1,4})\D{0,6}$", line)]
    return {int(number) - page for number in numbers}
