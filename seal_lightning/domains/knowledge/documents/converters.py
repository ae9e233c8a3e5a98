"""Conversion of a document's bytes to Markdown, by its kind, and from there to sections. Only the sandbox runs it.

A new kind of document needs a suffix in ``decoding.py`` and a converter here.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from lxml import etree, html
from markdownify import ATX, BACKSLASH, markdownify

from seal_lightning.domains.knowledge.documents.decoding import Kind, Unreadable, declared_charset, decode, too_long
from seal_lightning.domains.knowledge.documents.markdown import (
    Markdown,
    ParsedDocument,
    escaped,
    parse_markdown,
    starts_item,
)
from seal_lightning.domains.knowledge.documents.pdf import pdf_to_markdown

# --- plain text
_RULE = re.compile(r"([=\-~^\"'`#*+:.<>_])\1{2,}\s*")
_NO_TEXT = re.compile(r"(?:={2,}|-{2,})(?: +(?:={2,}|-{2,}))+\s*|\.\. _[^:]{1,80}:\s*")
"""Rules of reStructuredText's tables, and its labels."""
_COLUMNS = re.compile(r"\S(?: {3,}|\t+| \| )\S")
_FULL_LINE = 45
"""Columns from which on a line is taken to end because the next word did not fit."""
_MOST_HEADING_CHARS = 120

# --- Markdown
_FRONT_MATTER = re.compile(r"\A(?:---|\+\+\+)[ \t]*\n(.{0,20000}?)\n(?:---|\+\+\+|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE_FIELD = re.compile(r"^title[ \t]*[:=][ \t]*[\"']?(.{1,200}?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)

# --- HTML
_UNSEEN = (
    "applet audio button canvas datalist dialog embed head iframe input map nav noscript object script select style svg "
    "template textarea video"
)
_HIDDEN = (
    ".//*[@hidden or @aria-hidden='true' or contains(translate(@style, ' ', ''), 'display:none') or "
    "contains(translate(@style, ' ', ''), 'visibility:hidden')]"
)
_LAYOUT = ".//table[.//table or .//ul or .//ol or .//pre or .//h1 or .//h2 or .//h3 or .//h4 or .//p[2]]"
"""Tables that hold one of these are no tables but the layout of a page."""
_MENU_LINKS, _MENU_SHARE = 3, 0.8
"""A list or table outside the main part with at least so many links and this share of text in links is a menu."""
_MAIN_SHARE = 0.2
"""Share of a page's text that its main element must have."""
_HUGE_BYTES = 5_000_000
"""Below libxml2's limit of 10,000,000, where it silently truncates a text unless ``huge_tree`` is set."""
_MOST_TITLE_CHARS = 200


def read_document(kind: Kind, content: bytes, max_chars: int) -> ParsedDocument:
    """Return a document's text. Raises :class:`Unreadable` where it has none, or more than ``max_chars`` characters."""
    if kind == "pdf":
        markdown = pdf_to_markdown(content)
    else:
        decoded = decode(content, declared_charset(content) if kind == "html" else None)
        if kind != "html" and len(decoded.text) > max_chars:
            raise Unreadable(too_long(len(decoded.text), max_chars))
        convert = {"html": html_to_markdown, "markdown": without_front_matter}.get(kind, plain_to_markdown)
        markdown = convert(decoded.text)
        if decoded.num_replaced:
            note = f"{decoded.num_replaced} places could not be decoded ({decoded.encoding}) and are U+FFFD now"
            markdown = Markdown(text=markdown.text, title=markdown.title, notes=(*markdown.notes, note))
    parsed = parse_markdown(markdown)
    if parsed.num_chars > max_chars:
        raise Unreadable(too_long(parsed.num_chars, max_chars))
    if not parsed.num_chars:
        raise Unreadable("has no text")
    return parsed


def without_front_matter(text: str) -> Markdown:
    """Split front matter, of which only a ``title`` is used, from Markdown."""
    front = _FRONT_MATTER.match(text)
    if front is None:
        return Markdown(text=text)
    title = _TITLE_FIELD.search(front[1])
    return Markdown(text=text[front.end() :], title=title[1] if title else None)


def plain_to_markdown(text: str) -> Markdown:
    """Convert plain text, also reStructuredText: paragraphs lie between blank lines, headings over rules.

    A line over a rule of ``=``, ``-``, ``~`` … as long as the line is a heading; levels go by the order in which the rules
    first occur, as in reStructuredText. Lines that were wrapped are joined; list items, lines in columns and short lines
    stay lines. The end of a page ends a paragraph. Rules and labels are dropped.
    """
    blocks, block, levels = list[str](), list[str](), dict[str, int]()
    lines = [*text.replace("\f", "\n\n").split("\n"), ""]
    for number, line in enumerate(lines):
        if _RULE.fullmatch(line) and number and _is_heading(lines, number):
            heading = block.pop()
            blocks.append(_paragraph(block))
            level = min(levels.setdefault(line.strip()[0], len(levels) + 1), 6)
            blocks.append(f"{'#' * level} {escaped(heading.strip())}")
            block = []
        elif not line.strip() or _RULE.fullmatch(line):
            blocks.append(_paragraph(block))
            block = []
        elif not _NO_TEXT.fullmatch(line):
            block.append(line)
    return Markdown(text="\n\n".join(block for block in blocks if block))


def _paragraph(lines: list[str]) -> str:
    """Join wrapped lines by soft line breaks, and lines that stay by hard ones."""
    found, goes_on = "", False
    for line in lines:
        columns = _COLUMNS.search(line.strip()) is not None
        stripped = re.sub(r"\s{2,}", "  ", line.strip()) if columns else " ".join(line.split())
        if found:
            found += "\n" if goes_on and not columns and not starts_item(stripped) else "\\\n"
        found += escaped(stripped)
        goes_on = _width(line.rstrip()) >= _FULL_LINE and not columns
    return found


def _width(line: str) -> int:
    return len(line) if line.isascii() else sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line)


def _is_heading(lines: list[str], number: int) -> bool:
    """Return True for a line that stands alone above a rule of at least its length."""
    title, rule = lines[number - 1], lines[number].rstrip()
    before = lines[number - 2].strip() if number > 1 else ""
    alone = not before or _RULE.fullmatch(before) is not None
    fits = 0 < len(title.strip()) <= _MOST_HEADING_CHARS and not title.startswith((" ", "\t"))
    return alone and fits and len(title.rstrip()) <= len(rule) + 2 and not _RULE.fullmatch(title)


def html_to_markdown(text: str) -> Markdown:
    """Convert a page's main part, or else all of it without frames and menus. Raises :class:`Unreadable`.

    Nothing is fetched, run or expanded: libxml2's HTML parser knows no entities but HTML's own.
    """
    page = text.encode()
    huge = len(page) > _HUGE_BYTES
    parser = html.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=huge)
    try:
        tree = html.document_fromstring(page, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable("has no text") from error
    if any("depth" in entry.message for entry in parser.error_log):  # libxml2 stops reading there
        raise Unreadable("nests its elements too deeply")
    title = _text(tree.find(".//title"))
    body = tree.body if tree.body is not None else tree
    for element in (*body.iter(*_UNSEEN.split()), *body.xpath(_HIDDEN)):
        element.drop_tree()
    main = _main_part(body)
    num_words = 0
    if main is None:
        menus = [e for e in body.iter("ul", "ol", "table") if _is_menu(e)]
        for element in (*body.iter("header", "footer", "aside", "form"), *menus):
            num_words += len(_text(element).split())
            element.drop_tree()
    part = body if main is None else main
    heads = [_text(head) for head in part.iter("h1")]
    title = heads[0] if len(heads) == 1 and heads[0] else title
    for image in part.iter("img"):
        image.tag, image.text = "span", image.get("alt")
    for link in [link for link in part.iter("a") if not _text(link)]:  # a heading's own anchor
        link.drop_tree()
    for element in part.iter("dt", "dd"):
        element.tag = "p"
    for caption in part.xpath(".//table/caption"):
        caption.getparent().addprevious(caption)
        caption.tag = "p"
    for table in part.xpath(_LAYOUT):
        for element in table.iter("table", "thead", "tbody", "tfoot", "tr", "td", "th"):
            element.tag = "div"
    source = markdownify(
        etree.tostring(part, encoding="unicode", method="html", with_tail=False),
        strip=["a"],
        heading_style=ATX,
        bullets="-",
        newline_style=BACKSLASH,
        table_infer_header=True,
        escape_misc=True,
    )
    notes = (f"about {num_words} words of menus were skipped",) if num_words else ()
    return Markdown(
        text=re.sub(r"\xa0[\xa0 ]*", " ", source), title=title[:_MOST_TITLE_CHARS].strip() or None, notes=notes
    )


def _text(element: Any) -> str:
    return "" if element is None else re.sub(r"[\s¶§🔗#]+$", "", " ".join("".join(element.itertext()).split()))


def _main_part(body: Any) -> Any:
    found = body.xpath(".//main|.//*[@role='main']") or body.xpath(".//article")
    return found[0] if len(found) == 1 and len(_text(found[0])) >= _MAIN_SHARE * len(_text(body)) else None


def _is_menu(element: Any) -> bool:
    links = [_text(link) for link in element.iter("a")]
    return len(links) >= _MENU_LINKS and sum(map(len, links)) >= _MENU_SHARE * len(_text(element))
