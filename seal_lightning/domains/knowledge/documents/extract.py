"""What a reader makes of a document: its title, and its text under its headings."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MOST_HEADING_CHARS = 200
_LONG_BLANK = re.compile(r"(?<!\s)[^\S\n]{81,}+")
"""Longer than what code is indented by and columns are apart."""


class Unreadable(Exception):
    """A document that cannot be used; the text says why and, where something helps, what."""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph, a list, a table or a block of code; ``\\n`` stands only where a line ends for good."""

    text: str
    """Not blank; without blank lines."""
    page: int | None = None
    """≥ 1: where it begins, of a document with pages."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The text between one heading and the next."""

    headings: tuple[str, ...] = ()
    """The heading, and before it those it stands under, outermost first; empty before the first heading."""
    paragraphs: tuple[Paragraph, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Extract:
    """A document's text."""

    title: str | None = None
    """None where it names none."""
    sections: tuple[Section, ...] = ()
    left_out: tuple[str, ...] = ()
    """Parts that could not be read or were left out, in words."""

    @property
    def num_chars(self) -> int:
        """Of its paragraphs."""
        return sum(len(paragraph.text) for section in self.sections for paragraph in section.paragraphs)


class Outline:
    """Gathers paragraphs under the headings that are open."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self._paragraphs: list[Paragraph] = []
        self._sections: list[Section] = []

    def heading(self, level: int, text: str) -> None:
        """A heading of a level, 1 outermost: it closes those of its level and below.

        Blank ones are none, and one over 200 characters is a paragraph.
        """
        words = " ".join(text.split())
        if not words or len(words) > _MOST_HEADING_CHARS:
            self.paragraph(words)
            return
        self._end_section()
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, words))

    def paragraph(self, text: str, page: int | None = None) -> None:
        """A paragraph under the headings that are open; blank lines in it, and blanks at its lines' ends, go.

        More than 80 blanks in a row become two.
        """
        lines = [_LONG_BLANK.sub("  ", line.rstrip()) for line in text.split("\n")]
        filled = "\n".join(line for line in lines if line)
        if filled.strip():
            self._paragraphs.append(Paragraph(text=filled, page=page))

    def sections(self) -> tuple[Section, ...]:
        """All of it, in order; a heading with nothing under it is a section without paragraphs."""
        self._end_section()
        return tuple(self._sections)

    def _end_section(self) -> None:
        if self._paragraphs or self._open:
            headings = tuple(text for _, text in self._open)
            last = self._sections[-1].headings if self._sections else None
            if self._paragraphs or headings != last:
                self._sections.append(Section(headings=headings, paragraphs=tuple(self._paragraphs)))
        self._paragraphs = []


def titled(title: str | None, sections: tuple[Section, ...], left_out: tuple[str, ...] = ()) -> Extract:
    """An extract whose title, where none is given, is the one heading that all headings stand under.

    The title is then no heading of its sections any more.
    """
    first = next((section.headings[0] for section in sections if section.headings), None)
    under_one = first is not None and all(not s.headings or s.headings[0] == first for s in sections)
    opens = bool(sections) and (bool(sections[0].headings) or len(sections) > 1)
    if first is not None and under_one and opens and title in (None, first):
        sections = tuple(Section(headings=s.headings[1:], paragraphs=s.paragraphs) for s in sections)
        return Extract(title=first, sections=sections, left_out=left_out)
    return Extract(title=title, sections=sections, left_out=left_out)
