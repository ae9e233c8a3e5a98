"""The kind of a file, and the text of its bytes.

Text is brought into Unicode's normal form C: PDF files and some systems write ``é`` as two characters, which are other
tokens than those a model was trained on. The compatibility forms (NFKC) would also rewrite ``m²`` to ``m2``.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from charset_normalizer import from_bytes

Kind = Literal["text", "markdown", "html", "pdf", "json", "jsonl"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
    ".json": "json",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
}
_UNSUPPORTED = {
    b"PK\x03\x04": "is a ZIP archive (as .docx, .epub and .odt files are); save it as text, HTML or PDF",
    b"\xd0\xcf\x11\xe0": "is an old Office file; save it as text, HTML or PDF",
    b"{\\rtf": "is RTF; save it as text, HTML or PDF",
    b"%!PS": "is PostScript; save it as PDF",
    b"\x1f\x8b": "is compressed (gzip); decompress it",
    b"\x89PNG": "is an image",
}
_HTML_START = re.compile(
    # possessive and atomic, since backtracking over comments would take exponential time
    rb"\A(?:\xef\xbb\xbf)?+(?>\s++|<!--.{0,2000}?-->|<\?xml.{0,200}?\?>){0,20}+<(?:!doctype\s++html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CHARSET = re.compile(rb"""(?:charset|<\?xml[^>]{0,80}encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_AS_BROWSERS = {
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    "iso8859-9": "cp1254",
    **dict.fromkeys(("iso8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Python's names of encodings that pages declare, and the actual encodings (https://encoding.spec.whatwg.org)."""
_SAMPLE_BYTES = 64 * 2**10
_MOST_UNREADABLE = 0.1
"""Share of control and replacement characters above which a file is binary."""
_FEW_LETTERS, _FEW_BYTES = 0.1, 24
"""Up to this share or number of bytes beyond ASCII, a text is in a Western language: too few bytes for a guess."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters except tab, line and page ends; lone surrogates; soft hyphens; byte order marks."""
_LINE_END = re.compile("\r\n|[\r\x85\u2028]|\u2029")
_STRETCH = re.compile(r"\S{1,500}")
"""Bounded, since normal form C takes time quadratic in a run of accents."""


class Unreadable(Exception):
    """A document that cannot be used; the text says why and, where possible, how to fix it."""


def too_long(num_chars: int, max_chars: int) -> str:
    """Return the reason for skipping a text."""
    return f"has {num_chars} characters of text; allowed are {max_chars} (max_chars). Split it"


def kind_of(path: PurePath, content: bytes) -> Kind:
    """Return the kind of a file, by its content or else its suffix. Raises :class:`Unreadable`."""
    if not content.strip():
        raise Unreadable("is empty")
    named = _KINDS.get(path.suffix.lower(), "text")
    head = content[:1024]  # where readers of PDF accept its start
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"%PDF-") or (named == "pdf" and b"%PDF-" in head):
        return "pdf"
    for mark, reason in _UNSUPPORTED.items():
        if content.startswith(mark):
            raise Unreadable(reason)
    if named in ("pdf", "text") and _HTML_START.match(content[:8192]):
        return "html"
    if named == "pdf":
        raise Unreadable("is a damaged PDF: its start is missing")
    return named


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded text."""

    text: str
    encoding: str
    """Python's name, or ``mixed``."""
    num_replaced: int = 0
    """Places that are invalid in the encoding, now U+FFFD."""


def declared_charset(content: bytes) -> str | None:
    """Return the encoding that a page's ``meta`` element or XML declaration names."""
    found = _CHARSET.search(content[:4096])
    return found[1].decode("ascii", "replace") if found else None


def decode(content: bytes, declared: str | None = None) -> Decoded:
    """Decode a text's bytes. Raises :class:`Unreadable` for a binary file.

    In this order: by a byte order mark; as UTF-8; by the ``declared`` encoding, in the reading of browsers
    (``iso-8859-1`` is Windows-1252); line by line, where most lines are UTF-8 and the others Windows-1252; by a guess of
    charset-normalizer; and with few letters beyond ASCII as Windows-1252.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return _checked(content.decode(encoding, errors="replace"), encoding)
    if b"\0" in content[:_SAMPLE_BYTES]:
        raise Unreadable("is a binary file")
    try:
        return _checked(content.decode(), "utf-8")
    except UnicodeDecodeError:
        return _checked(*(_decoded_as(content, declared) or _mixed(content) or _guessed(content)))


def cleaned(text: str) -> str:
    """Return the text with ``\\n`` line ends, without control characters, in normal form C; tabs and ``\\f`` stay."""
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return text if text.isascii() else _STRETCH.sub(lambda found: unicodedata.normalize("NFC", found[0]), text)


def _checked(text: str, encoding: str) -> Decoded:
    replaced = text.count("\ufffd")
    unreadable = replaced + sum(len(found) for found in re.findall("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]+", text))
    if unreadable > _MOST_UNREADABLE * len(text):
        raise Unreadable("is a binary file, or a text in an unknown encoding; save it as UTF-8")
    return Decoded(text=cleaned(text), encoding=encoding, num_replaced=replaced)


def _decoded_as(content: bytes, declared: str | None) -> tuple[str, str] | None:
    try:
        name = codecs.lookup(declared or "").name
        encoding = _AS_BROWSERS.get(name, name)
        return None if name.startswith("utf") else (content.decode(encoding), encoding)
    except (LookupError, ValueError):
        return None


def _mixed(content: bytes) -> tuple[str, str] | None:
    decoded, num_others, num_utf8 = [], 0, 0
    for line in content.split(b"\n"):
        try:
            decoded.append(line.decode())
            num_utf8 += not line.isascii()
        except UnicodeDecodeError:
            decoded.append(line.decode("cp1252", errors="replace"))
            num_others += 1
    return ("\n".join(decoded), "mixed") if num_utf8 >= num_others else None


def _guessed(content: bytes) -> tuple[str, str]:
    sample = b"\n".join(line for line in content.split(b"\n") if not line.isascii())[:_SAMPLE_BYTES]
    num_beyond = sum(byte > 127 for byte in sample)
    few = num_beyond <= max(_FEW_BYTES, _FEW_LETTERS * len(content[:_SAMPLE_BYTES]))
    best = None if few else from_bytes(sample).best()
    encoding = "cp1252" if best is None else best.encoding
    return content.decode(encoding, errors="replace"), encoding
