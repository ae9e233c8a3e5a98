"""PDF by pypdf: the text of its pages, under the headings of its outline.

Of a file only page contents, the outline and the title are read: no script, form, action, attachment or link is looked at.
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.knowledge.documents.encodings import cleaned
from seal_lightning.domains.knowledge.documents.extract import Extract, Outline, Unreadable, titled
from seal_lightning.domains.knowledge.documents.page_margins import Page, without_margins
from seal_lightning.domains.knowledge.documents.plain import starts_line

_MOST_PAGES = 5_000
_MOST_STREAM_BYTES = 32 * 2**20
"""Of a page's content, unpacked; a page of print has some 10 KiB."""
_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
_HYPHEN = re.compile(r"([^\W\d_]+)-$")
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’»)\]]*$")
_SHORT_LINE = 0.8
"""A line that ends a sentence and is shorter than this part of the page's longer lines ends a paragraph."""
_NO_TITLE = re.compile(r"untitled|microsoft (word|powerpoint)|\.(docx?|pdf|tex|dvi|indd|qxd|odt|pptx?)$", re.IGNORECASE)
_MOST_TITLE_CHARS = 200


def read_pdf(content: bytes) -> Extract:
    """The document's text without running headers and footers, words that were broken at line ends joined.

    Raises :class:`Unreadable` for one that is encrypted, damaged, has no text or too much; :class:`ConfigError` where pypdf
    is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError as error:
        raise ConfigError(
            'documents: PDF needs the package pypdf: `pip install "seal-lightning[documents]"`'
        ) from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity; what matters is counted here
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
            return _read(reader)
        except Unreadable:
            raise
        except DependencyError as error:
            raise Unreadable("is encrypted (AES); save a copy that is not, or `pip install cryptography`") from error
        except (MemoryError, RecursionError) as error:
            raise Unreadable("is a damaged PDF: it unpacks or nests without end") from error
        except (PyPdfError, *_DAMAGE) as error:
            raise Unreadable(f"is a damaged PDF ({type(error).__name__})") from error


_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, ArithmeticError, OSError)
"""What pypdf raises on damaged files beside its own errors."""


def _read(reader: Any) -> Extract:
    num_pages = len(reader.pages)
    if num_pages > _MOST_PAGES:
        raise Unreadable(f"has {num_pages} pages; allowed are {_MOST_PAGES}. Split it")
    pages, damaged = _pages(reader, num_pages)
    if not any(pages):
        if damaged:
            raise Unreadable("is a damaged PDF: no page of it can be read")
        raise Unreadable("is a PDF without text, perhaps scanned; run a text recognition (OCR) on it first")
    without = [number for number, page in enumerate(pages, start=1) if not page and number not in damaged]
    left_out = (*_told("could not be read", damaged), *_told("have no text (scanned or empty)", without))
    pages = without_margins(pages)
    outline = Outline()
    for page, level, heading, text in _parts(pages, _headings(reader)):
        if heading:
            outline.heading(level, heading)
        if text:
            outline.paragraph(text, page=page)
    return titled(_title(reader), outline.sections(), left_out)


def _pages(reader: Any, num_pages: int) -> tuple[list[Page], list[int]]:
    """The pages' lines, and the numbers of those that cannot be read."""
    from pypdf.errors import PyPdfError

    pages: list[Page] = []
    damaged = []
    for number in range(num_pages):
        try:
            text = cleaned(str(reader.pages[number].extract_text()).translate(_LIGATURES))
        except (PyPdfError, RecursionError, *_DAMAGE):
            text = ""
            damaged.append(number + 1)
        pages.append([line for line in (" ".join(line.split()) for line in text.split("\n")) if line])
    return pages, damaged


def _told(what: str, numbers: list[int]) -> list[str]:
    if not numbers:
        return []
    named = ", ".join(map(str, numbers[:5])) + (" …" if len(numbers) > 5 else "")
    return [f"{len(numbers)} pages {what}: {named}"]


def _title(reader: Any) -> str | None:
    try:
        title = " ".join(cleaned(str(reader.metadata.title or "")).split())[:_MOST_TITLE_CHARS]
    except Exception:  # noqa: BLE001 - a title is not worth a document
        return None
    return None if not title or _NO_TITLE.search(title) else title


def _headings(reader: Any) -> dict[int, list[tuple[int, str]]]:
    """By page, counted from 1, the outline's (level, heading) in order; empty where there is none or it is damaged."""
    found: dict[int, list[tuple[int, str]]] = {}

    def walk(entries: Sequence[Any], level: int) -> None:
        for entry in entries:
            if isinstance(entry, list):
                walk(entry, level + 1)
                continue
            number = reader.get_destination_page_number(entry)
            title = " ".join(cleaned(str(entry.title)).split())
            if number is not None and number >= 0 and title:
                found.setdefault(number + 1, []).append((level, title))

    try:
        walk(reader.outline, 1)
    except Exception:  # noqa: BLE001 - the text is there without its outline
        return {}
    return found


def _parts(
    pages: list[Page], headings: dict[int, list[tuple[int, str]]]
) -> Iterator[tuple[int, int, str | None, str | None]]:
    """(Page, level, heading or None, paragraph or None), in order. A paragraph goes on over the end of a page."""
    words = Counter(
        word.lower() for page in pages for line in page for word in re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", line)
    )
    lines: list[str] = []
    begun = 1
    for number, page in enumerate(pages, start=1):
        width = sorted(map(len, page))[len(page) * 9 // 10] if page else 0
        waiting = list(headings.get(number, ()))
        while waiting and _place(page, waiting[0][1]) is None:  # not found in the text: it stands above the page
            yield begun, 0, None, _joined(lines, words)
            lines, begun = [], number
            level, heading = waiting.pop(0)
            yield number, level, heading, None
        skip = 0
        for index, line in enumerate(page):
            if skip:
                skip -= 1
                continue
            length = _heading_length(page, index, waiting[0][1]) if waiting else 0
            if length:
                yield begun, 0, None, _joined(lines, words)
                lines, begun, skip = [], number, length - 1
                level, heading = waiting.pop(0)
                yield number, level, heading, None
                continue
            begun = begun if lines else number
            lines.append(line)
            if _SENTENCE_END.search(line) and len(line) < _SHORT_LINE * width:
                yield begun, 0, None, _joined(lines, words)
                lines = []
        for level, heading in waiting:
            yield begun, 0, None, _joined(lines, words)
            lines = []
            yield number, level, heading, None
    yield begun, 0, None, _joined(lines, words)


def _place(page: Page, heading: str) -> int | None:
    return next((index for index in range(len(page)) if _heading_length(page, index, heading)), None)


def _heading_length(page: Page, index: int, heading: str) -> int:
    """How many lines from here are the heading, perhaps behind a number; 0 where they are something else."""
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


def _joined(lines: list[str], words: Counter[str]) -> str:
    """A paragraph's lines as one, but for items of lists; a hyphen at a line's end goes where the word is one word.

    It stays where the document has the word with a hyphen elsewhere, and without one nowhere.
    """
    joined: list[str] = []
    for line in lines:
        broken = _HYPHEN.search(joined[-1]) if joined else None
        rest = _FIRST_WORD.match(line)
        if broken and rest and rest[0][0].islower():
            first, second = broken[1].lower(), rest[0].lower()
            stays = words[f"{first}-{second}"] > words[first + second]
            joined[-1] = (joined[-1] if stays else joined[-1][:-1]) + line
        elif joined and not starts_line(line):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return "\n".join(joined)
