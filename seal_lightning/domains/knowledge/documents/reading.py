"""A document's bytes to its text, by its kind; all that a process apart runs."""

from __future__ import annotations

from seal_lightning.domains.knowledge.documents.encodings import Decoded, decoded
from seal_lightning.domains.knowledge.documents.extract import Extract, Unreadable
from seal_lightning.domains.knowledge.documents.html import declared_charset, read_html
from seal_lightning.domains.knowledge.documents.kinds import Kind
from seal_lightning.domains.knowledge.documents.markdown import read_markdown
from seal_lightning.domains.knowledge.documents.pdf import read_pdf
from seal_lightning.domains.knowledge.documents.plain import read_plain


def read_document(kind: Kind, content: bytes, max_chars: int) -> Extract:
    """The document's text. Raises :class:`Unreadable` where it has none or more than ``max_chars`` characters."""
    if kind == "pdf":
        extract = read_pdf(content)
    else:
        text = decoded(content, declared_charset(content) if kind == "html" else None)
        if len(text.text) > max_chars and kind != "html":
            raise Unreadable(too_long(len(text.text), max_chars))
        read = {"html": read_html, "markdown": read_markdown}.get(kind, read_plain)
        extract = _with_losses(read(text.text), text)
    if extract.num_chars > max_chars:
        raise Unreadable(too_long(extract.num_chars, max_chars))
    if not extract.num_chars:
        raise Unreadable("has no text")
    return extract


def too_long(num_chars: int, max_chars: int) -> str:
    """Why a text is not read."""
    return f"has {num_chars} characters of text; allowed are {max_chars} (max_chars). Split it"


def _with_losses(extract: Extract, text: Decoded) -> Extract:
    if not text.num_replaced:
        return extract
    told = f"{text.num_replaced} places could not be decoded ({text.encoding}) and are U+FFFD now"
    return Extract(title=extract.title, sections=extract.sections, left_out=(*extract.left_out, told))
