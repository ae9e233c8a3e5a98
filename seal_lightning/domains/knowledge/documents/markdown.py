"""Markdown by markdown-it-py (CommonMark with tables): headings, paragraphs, lists, tables and code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from seal_lightning.domains.knowledge.documents.extract import Extract, Outline, titled
from seal_lightning.domains.knowledge.documents.fragments import text_of_fragment

_FRONT_MATTER = re.compile(r"\A(?:---|\+\+\+)[ \t]*\n(.{0,20000}?)\n(?:---|\+\+\+|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE_FIELD = re.compile(r"^title[ \t]*[:=][ \t]*[\"']?(.{1,200}?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_UNSEEN_TAG = re.compile(r"<(/?)(script|style)(?![\w-])", re.IGNORECASE)


def read_markdown(text: str) -> Extract:
    """The text under its headings. Links become their texts, images their alternative texts; code stays as it is.

    Of front matter only a ``title`` is read. HTML within is read as text, without scripts, styles and comments.
    """
    title, front = None, _FRONT_MATTER.match(text)
    if front is not None:
        field = _TITLE_FIELD.search(front[1])
        title, text = (field[1] if field else None), text[front.end() :]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    reading = _Reading()
    for token in tokens:
        reading.take(token)
    return titled(title, reading.outline.sections())


class _Reading:
    """Goes over a document's block tokens."""

    def __init__(self) -> None:
        self.outline = Outline()
        self._heading = 0
        self._lists: list[int | None] = []
        """Of the lists that are open, the next number, or None for bullets."""
        self._lines: list[str] = []
        self._cells: list[str] | None = None
        self._marker = ""

    def take(self, token: Token) -> None:
        if token.type == "heading_open":
            self._heading = int(token.tag[1:])
        elif token.type == "inline":
            self._inline(inline_text(token.children or []))
        elif token.type in ("fence", "code_block"):
            self._text(token.content)
        elif token.type == "html_block":
            self._text(text_of_fragment(token.content))
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            start = int(token.attrGet("start") or 1) if token.type.startswith("ordered") else None
            self._lists.append(start)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
            self._marker = "  " * len(self._lists)
            if not self._lists:
                self._end_lines()
        elif token.type == "list_item_open":
            self._item()
        elif token.type == "tr_open":
            self._cells = []
        elif token.type == "tr_close":
            self._lines.append(" | ".join(self._cells or []))
            self._cells = None
        elif token.type == "table_close" and not self._lists:
            self._end_lines()

    def _item(self) -> None:
        number = self._lists[-1]
        depth = "  " * (len(self._lists) - 1)
        self._marker = f"{depth}{'-' if number is None else f'{number}.'} "
        if number is not None:
            self._lists[-1] = number + 1

    def _inline(self, text: str) -> None:
        if self._heading:
            self.outline.heading(self._heading, text)
            self._heading = 0
        elif self._cells is not None:
            self._cells.append(" ".join(text.split()))
        else:
            self._text(text)

    def _text(self, text: str) -> None:
        if not self._lists:
            self.outline.paragraph(text)
            return
        for line in text.split("\n"):
            self._lines.append(self._marker + line)
            self._marker = "  " * len(self._lists)

    def _end_lines(self) -> None:
        self.outline.paragraph("\n".join(self._lines))
        self._lines = []


def inline_text(children: Sequence[Token]) -> str:
    """What a reader sees of a paragraph: texts, code, alternative texts; line breaks that are meant stay.

    What is between the tags of a script or a style goes; a tag that is never closed is none.
    """
    found: list[str] = []
    tags = {
        at: tag for at, c in enumerate(children) if c.type == "html_inline" and (tag := _UNSEEN_TAG.match(c.content))
    }
    last_end = {tag[2].lower(): at for at, tag in tags.items() if tag[1]}
    unseen = ""
    for at, child in enumerate(children):
        if (tag := tags.get(at)) is not None:
            name = tag[2].lower()
            if tag[1]:
                unseen = "" if unseen == name else unseen
            elif last_end.get(name, -1) > at:
                unseen = unseen or name
        elif unseen:
            continue
        elif child.type in ("text", "code_inline"):
            found.append(child.content)
        elif child.type == "image":
            found.append(inline_text(child.children or []))
        elif child.type == "softbreak":
            found.append(" ")
        elif child.type == "hardbreak" or (child.type == "html_inline" and child.content.lower().startswith("<br")):
            found.append("\n")
    return "".join(found)
