"""What a file is: by its content where that tells, by its ending where it does not."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePath
from typing import Literal

from seal_lightning.domains.knowledge.documents.extract import Unreadable

Kind = Literal["text", "markdown", "html", "pdf", "json", "jsonl"]

_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".json": "json",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
}
OF_PAGES = frozenset({".css", ".js", ".mjs", ".map", ".svg", ".rss", ".atom"})
"""Endings of what lies beside a saved page; in a folder they are passed over, by their own name they are read as text."""
_BINARY = (
    (b"PK\x03\x04", "is a ZIP archive (so are .docx, .epub and .odt files); save it as text, HTML or PDF"),
    (b"\x1f\x8b", "is packed (gzip); unpack it"),
    (b"BZh", "is packed (bzip2); unpack it"),
    (b"\xfd7zXZ", "is packed (xz); unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it"),
    (b"\x7fELF", "is a binary file (a program)"),
    (b"MZ\x90", "is a binary file (a program)"),
    (b"\x89PNG", "is an image"),
    (b"\xff\xd8\xff", "is an image"),
    (b"GIF8", "is an image"),
    (b"\xd0\xcf\x11\xe0", "is an old Office file; save it as text, HTML or PDF"),
    (b"{\\rtf", "is RTF; save it as text, HTML or PDF"),
    (b"%!PS", "is PostScript; save it as PDF"),
)
_PDF_BEGINS_WITHIN = 1024
"""As readers of PDF allow; of a file that is not named as one a text that tells of PDF would be taken for it."""
_HTML_START = re.compile(
    # a comment ends at its first end: were the ways to part what is before the page tried, their number would explode
    rb"\A(?:\xef\xbb\xbf)?+(?>\s++|<!--.{0,2000}?-->|<\?xml.{0,200}?\?>){0,20}+<(?:!doctype\s++html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)


def kind_of(path: PurePath, content: bytes) -> Kind:
    """How a file is read. Raises :class:`Unreadable` for what is no document, or none yet."""
    if not content.strip():
        raise Unreadable("is empty")
    named = _ENDINGS.get(path.suffix.lower(), "text")
    head = content[:_PDF_BEGINS_WITHIN]
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in head):
        return "pdf"
    for mark, what in _BINARY:
        if content.startswith(mark):
            raise Unreadable(what)
    if named == "pdf" or named == "text":
        if _HTML_START.match(content[:8192]):
            return "html"
        if named == "pdf":
            raise Unreadable("is a damaged PDF: it does not begin as one")
    return named
