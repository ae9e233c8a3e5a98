"""Markdown to sections: headings become topics, and the blocks under them plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import unescape

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MOST_HEADING_CHARS = 200
_PAGE = re.compile(r"<!-- page (\d{1,6}) -->")
_TAG = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^>]*>", re.DOTALL | re.IGNORECASE)
_WIDE = "\u2e80-\u303f\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff65"
"""Chinese and Japanese characters, which are written without blanks between them."""
_WIDE_LINE_END = re.compile(rf"(?<=[{_WIDE}])\r(?=[{_WIDE}])")
_ITEM = re.compile(r"(?:[-*•‣◦+]|\(?(?:\d{1,3}|[A-Za-z])[.)])\s|:[A-Z][\w ]{1,40}:\s")
_LONG_BLANK = re.compile(r"(?<=\S)[^\S\n]{81,}+")


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph, list, table or block of code; ``\\n`` stands only for a real line end."""

    text: str
    """Neither blank nor with blank lines."""
    page: int | None = None
    """≥ 1: the page it begins on, of a document with pages."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The text between one heading and the next."""

    headings: tuple[str, ...] = ()
    """Its heading, preceded by those it stands under, outermost first; empty before the first heading."""
    paragraphs: tuple[Paragraph, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParsedDocument:
    """A document's text."""

    title: str | None = None
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    """Parts that were skipped or damaged."""

    @property
    def num_chars(self) -> int:
        """Characters of all paragraphs."""
        return sum(len(paragraph.text) for section in self.sections for paragraph in section.paragraphs)


@dataclass(frozen=True, kw_only=True)
class Markdown:
    """A document converted to Markdown."""

    text: str
    title: str | None = None
    notes: tuple[str, ...] = ()
    """Parts that were skipped or damaged."""


def page_mark(page: int) -> str:
    """Return the line of Markdown that begins a page; the parser reads it back."""
    return f"<!-- page {page} -->"


def escaped(text: str) -> str:
    """Return a line of plain text as Markdown."""
    return re.sub(r"([!-/:-@\[-`{|}~])", r"\\\1", text)


def starts_item(line: str) -> bool:
    """Return True for a line of plain text that begins a list item or field, and so is not joined to the line before."""
    return _ITEM.match(line) is not None


def parse_markdown(document: Markdown) -> ParsedDocument:
    """Parse CommonMark with tables.

    Links become their texts, images their alternative texts, and code stays as it is; of HTML the text stays. Without a
    ``title``, the one heading that all others stand under is the title, and no longer a heading of the sections.
    """
    parser = _Parser()
    for token in MarkdownIt("commonmark").enable("table").parse(document.text):
        parser.take(token)
    parser.end_section()
    title = document.title
    sections = tuple(parser.sections)
    headed = [section for section in sections if section.headings]
    first = headed[0].headings[0] if headed else None
    opens = bool(headed) and (headed[0] is sections[0] or len(sections) > 1)
    if opens and title in (None, first) and all(section.headings[0] == first for section in headed):
        title = first
        sections = tuple(replace(section, headings=section.headings[1:]) for section in sections)
    return ParsedDocument(title=title, sections=sections, notes=document.notes)


class _Parser:
    """Gathers the paragraphs of block tokens under the open headings."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self._open: list[tuple[int, str]] = []  # (level, heading)
        self._paragraphs: list[Paragraph] = []
        self._page: int | None = None
        self._level = 0  # of the heading whose text comes next
        self._lists: list[int | None] = []  # the next number of each open list, None for bullets
        self._indents: list[int] = []
        self._marker = ""
        self._lines: list[str] = []  # of the open list or table
        self._cells: list[str] | None = None

    def take(self, token: Token) -> None:
        """Process the next block token."""
        kind = token.type
        if kind == "heading_open":
            self._level = int(token.tag[1:])
        elif kind == "inline":
            self._inline(_inline_text(token.children or []))
        elif kind in ("fence", "code_block"):
            self._text(token.content)
        elif kind == "html_block":
            self._html(token.content)
        elif kind in ("bullet_list_open", "ordered_list_open"):
            self._lists.append(int(token.attrGet("start") or 1) if kind[0] == "o" else None)
        elif kind == "list_item_open":
            self._open_item()
        elif kind == "list_item_close":
            self._indents.pop()
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
        elif kind == "tr_open":
            self._cells = []
        elif kind == "tr_close" and self._cells is not None:
            row, self._cells = " | ".join(self._cells), None
            self._text(row) if self._lists else self._lines.append(row)
        if kind.endswith("_close") and token.level == 0 and self._lines:
            self._paragraph("\n".join(self._lines))
            self._lines = []

    def end_section(self) -> None:
        """Close the section of the last heading."""
        headings = tuple(heading for _, heading in self._open)
        if self._paragraphs or (headings and (not self.sections or headings != self.sections[-1].headings)):
            self.sections.append(Section(headings=headings, paragraphs=tuple(self._paragraphs)))
        self._paragraphs = []

    def _open_item(self) -> None:
        number = self._lists[-1]
        bullet = "- " if number is None else f"{number}. "
        self._marker = " " * sum(self._indents) + bullet
        self._indents.append(len(bullet))
        if number is not None:
            self._lists[-1] = number + 1

    def _inline(self, text: str) -> None:
        if self._level:
            self._heading(self._level, " ".join(text.split()))
            self._level = 0
        elif self._cells is not None:
            self._cells.append(" ".join(text.split()))
        else:
            self._text(text)

    def _heading(self, level: int, text: str) -> None:
        if not text or len(text) > _MOST_HEADING_CHARS:
            self._text(text)
            return
        self.end_section()
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, text))

    def _html(self, html: str) -> None:
        if mark := _PAGE.match(html):
            self._page = int(mark[1])
        lines = (" ".join(line.split()) for line in unescape(_TAG.sub("\n", html)).split("\n"))
        self._text("\n".join(line for line in lines if line))

    def _text(self, text: str) -> None:
        if not self._lists:
            self._paragraph(text)
            return
        for line in text.split("\n"):
            if line.strip():
                self._lines.append(self._marker + line)
                self._marker = " " * sum(self._indents)

    def _paragraph(self, text: str) -> None:
        lines = [_LONG_BLANK.sub("  ", line.rstrip()) for line in text.split("\n")]
        if filled := "\n".join(line for line in lines if line):
            self._paragraphs.append(Paragraph(text=filled, page=self._page))


def _inline_text(children: Sequence[Token]) -> str:
    """Return the visible text of a paragraph; only its hard line breaks stay."""
    found = []
    for child in children:
        if child.type in ("text", "code_inline"):
            found.append(child.content)
        elif child.type == "image":
            found.append(_inline_text(child.children or []))
        elif child.type == "softbreak":
            found.append("\r")
        elif child.type == "hardbreak" or (child.type == "html_inline" and child.content.lower().startswith("<br")):
            found.append("\n")
    return _WIDE_LINE_END.sub("", "".join(found)).replace("\r", " ")
