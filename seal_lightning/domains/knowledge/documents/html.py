"""HTML by lxml, which parses what browsers forgive: the text that a reader sees, under its headings.

trafilatura, which was made for news, leaves out lists, tables and headings of short pages; a document given to be learned
is read whole. Nothing is fetched, run or expanded: libxml2's HTML parser knows no entities but HTML's own.
"""

from __future__ import annotations

import re
from typing import Any

from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.knowledge.documents.extract import Extract, Outline, Paragraph, Section, Unreadable, titled
from seal_lightning.domains.knowledge.documents.packing import num_words

_UNSEEN = frozenset(
    {
        "applet",
        "audio",
        "button",
        "canvas",
        "datalist",
        "dialog",
        "embed",
        "head",
        "iframe",
        "input",
        "map",
        "nav",
        "noscript",
        "object",
        "script",
        "select",
        "style",
        "svg",
        "template",
        "textarea",
        "video",
    }
)
_FRAME = frozenset({"header", "footer", "aside", "form"})
"""What stands around a page's text; within a page's main part they are text."""
_BLOCKS = frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    }
)
_TABLE_PARTS = {
    "table": {"caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr"},
    "thead": {"tr"},
    "tbody": {"tr"},
    "tfoot": {"tr"},
    "tr": {"td", "th"},
}
"""What may stand in what of a table that is one."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LAYOUT = "|".join(f"descendant::{tag}" for tag in ("table", "p[2]", "ul", "ol", "pre", "h1", "h2", "h3", "h4"))
"""A table that holds one of these is no table but a page's layout."""
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_ANCHOR = re.compile(r"[\s¶§🔗#]+$")
_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_HUGE_BYTES = 5_000_000
"""Some way below 10,000,000, where libxml2 ends a text, an attribute or the page without a word unless told otherwise."""
_DEEPEST, _DEEPEST_HUGE = 256, 2048
"""libxml2's, without and with ``huge_tree``."""
_MOST_TITLE_CHARS = 200
_MENU_LINKS = 3
_MENU_PART = 0.8
"""A block outside the main part with so many links, whose texts are so much of its own, is a menu."""
_MAIN_PART = 0.2
"""A main element with less of the page's text is not believed."""


def declared_charset(content: bytes) -> str | None:
    """The encoding that a page's ``meta`` element or XML declaration names."""
    found = _CHARSET.search(content[:4096]) or re.search(
        rb"<\?xml[^>]{0,80}encoding=[\"']([\w.-]{1,40})", content[:200]
    )
    return found[1].decode("ascii", "replace") if found else None


def read_html(text: str) -> Extract:
    """The page's main part where it has one, else all of it without frames and menus. Raises :class:`Unreadable`.

    Raises :class:`ConfigError` where lxml is not installed.
    """
    try:
        from lxml import etree, html
    except ImportError as error:
        raise ConfigError(
            'documents: HTML needs the package lxml: `pip install "seal-lightning[documents]"`'
        ) from error
    page = text.encode()
    huge = len(page) > _HUGE_BYTES  # only then: it lets elements nest deeper, too
    parser = html.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=huge)
    try:
        tree = html.document_fromstring(page, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable("is a page without text") from error
    if any("depth" in entry.message for entry in parser.error_log):  # libxml2 stops reading there
        raise Unreadable(f"nests its elements more than {_DEEPEST_HUGE if huge else _DEEPEST} deep")
    body = tree.body if tree.body is not None else tree
    reading = _Reading()
    main = _main_part(body)
    reading.inside_main = main is not None
    reading.block(body if main is None else main)
    reading.end_paragraph()
    heads = [_plain(head) for head in (body if main is None else main).iter("h1")]
    title = heads[0] if len(heads) == 1 and heads[0] else _plain(tree.find(".//title"))
    left_out = (f"about {reading.menu_words} words of menus were left out",) if reading.menu_words else ()
    return titled(title[:_MOST_TITLE_CHARS].strip() or None, reading.outline.sections(), left_out)


def _plain(element: Any) -> str:
    return "" if element is None else _ANCHOR.sub("", " ".join("".join(element.itertext()).split()))


def _main_part(body: Any) -> Any:
    found = body.xpath(".//main|.//*[@role='main']") or body.xpath(".//article")
    if len(found) != 1:
        return None
    return found[0] if len(_plain(found[0])) >= _MAIN_PART * len(_plain(body)) else None


class _Reading:
    """Walks a page's elements; libxml2 nests at most 256 of them, 2048 in a large page."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.menu_words = 0
        self.inside_main = False
        self._text: list[str] = []

    def end_paragraph(self) -> None:
        """What was gathered is a paragraph."""
        text, self._text = "".join(self._text), []
        lines = (" ".join(line.split()) for line in text.split("\n"))
        self.outline.paragraph("\n".join(line for line in lines if line))

    def block(self, element: Any) -> None:
        """An element that begins and ends a paragraph, and what is in it."""
        tag = element.tag
        self.end_paragraph()
        if tag in _HEADINGS:
            self.outline.heading(_HEADINGS[tag], _plain(element))
        elif tag == "pre":
            self.outline.paragraph("".join(element.itertext()).expandtabs(4))
        elif tag in ("ul", "ol", "dl", "menu"):
            self.outline.paragraph("\n".join(self._list_lines(element, "")))
        elif tag == "table" and (rows := self._rows(element)) is not None:
            self.outline.paragraph("\n".join(rows))
        else:
            self._within(element)
            self.end_paragraph()

    def _within(self, element: Any) -> None:
        self._text.append(_squeezed(element.text))
        for child in element:
            if not self._is_unseen(child):
                if child.tag in _BLOCKS or child.tag in _HEADINGS:
                    self.block(child)
                elif child.tag == "br":
                    self._text.append("\n")
                elif child.tag == "img":
                    self._text.append(_squeezed(child.get("alt")))
                else:
                    self._within(child)
            self._text.append(_squeezed(child.tail))

    def _list_lines(self, element: Any, indent: str) -> list[str]:
        """A list's items a line each, those of lists within them indented."""
        lines: list[str] = [indent + " ".join((element.text or "").split())]
        number = 0
        for item in element:
            tail = " ".join((item.tail or "").split())
            if self._is_unseen(item):
                lines.append(indent + tail)
                continue
            number += item.tag == "li"
            marker = {"li": "- " if element.tag != "ol" else f"{number}. ", "dd": "  "}.get(str(item.tag), "")
            inner = _Reading()
            inner.inside_main = True
            inner._within(item)
            inner.end_paragraph()
            texts = [p.text for s in inner.outline.sections() for p in (*_heading_of(s), *s.paragraphs)]
            for place, line in enumerate(line for text in texts for line in text.split("\n")):
                lines.append(indent + (marker if place == 0 else " " * len(marker)) + line)
            lines.append(indent + tail)
        return [line for line in lines if line.strip()]

    def _rows(self, table: Any) -> list[str] | None:
        """A table's rows a line each; None for one that lays out a page, or has text beside its cells."""
        if table.xpath(f"boolean({_LAYOUT})"):
            return None
        rows = []
        for row in table.iter("tr", "caption"):
            cells = [row] if row.tag == "caption" else [cell for cell in row if cell.tag in ("td", "th")]
            rows.append(" | ".join(self._cell(cell) for cell in cells))
        frames = [part for part in table.iter() if part.tag in _TABLE_PARTS]
        texts = [text for part in frames for text in (part.text, *(child.tail for child in part))]
        strange = any(child.tag not in _TABLE_PARTS[part.tag] for part in frames for child in part)
        return None if strange or any((text or "").strip() for text in texts) else rows

    def _cell(self, cell: Any) -> str:
        inner = _Reading()
        inner.inside_main = self.inside_main
        inner._within(cell)
        inner.end_paragraph()
        texts = [p.text for s in inner.outline.sections() for p in (*_heading_of(s), *s.paragraphs)]
        return " ".join(" ".join(texts).split())

    def _is_unseen(self, element: Any) -> bool:
        if not isinstance(element.tag, str) or element.tag in _UNSEEN:
            return True
        if element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        if _HIDDEN_STYLE.search(element.get("style") or ""):
            return True
        if self.inside_main or not (element.tag in _FRAME or self._is_menu(element)):
            return False
        self.menu_words += num_words(" ".join(element.itertext()))
        return True

    @staticmethod
    def _is_menu(element: Any) -> bool:
        if element.tag not in ("ul", "ol", "table"):
            return False
        links = [_plain(link) for link in element.iter("a")]
        return len(links) >= _MENU_LINKS and sum(map(len, links)) >= _MENU_PART * len(_plain(element))


def _heading_of(section: Section) -> list[Paragraph]:
    return [Paragraph(text=section.headings[-1])] if section.headings else []


def _squeezed(text: str | None) -> str:
    """White space of the source is a blank; a line ends where ``br`` says."""
    return re.sub(r"\s+", " ", text or "")
