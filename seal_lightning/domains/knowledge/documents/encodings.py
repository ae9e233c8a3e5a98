"""Bytes of a text to characters, whatever encoding they are in, and the characters that no reader wants taken out.

Text is brought into Unicode's normal form C: PDF files and some systems write ``é`` as two characters, which a tokenizer
reads as other tokens than the model was trained on. The compatibility forms (NFKC) would rewrite what is meant, ``m²`` to
``m2``, and are not used.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

from charset_normalizer import from_bytes

from seal_lightning.domains.knowledge.documents.extract import Unreadable

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does, so it is asked first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 64 * 2**10
_MOST_UNREADABLE = 0.1
"""The part of a text that may be control or replacement characters; a file with more is none."""
_FEW_LETTERS = 0.1
"""Up to this part of bytes beyond ASCII, a text is taken for one in a Western language."""
_FEWEST_TO_GUESS = 24
"""So is one with no more such bytes than these."""
_AS_BROWSERS = {
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    "iso8859-9": "cp1254",
    **dict.fromkeys(("iso8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Names of Python's for what pages declare, and what they are then written in (https://encoding.spec.whatwg.org)."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters but for tab, line and page ends; half characters; soft hyphens; byte order marks."""
_LINE_END = re.compile("\r\n|[\r\x85\u2028]|\u2029")
_STRETCH = re.compile(r"\S{1,500}")
"""Normal form C takes time quadratic in a run of accents."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A text, and how it was read."""

    text: str
    encoding: str
    """A name of Python's, or ``mixed``."""
    num_replaced: int = 0
    """Places that are valid in no encoding, now U+FFFD."""


def decoded(content: bytes, declared: str | None = None) -> Decoded:
    """The characters of a text's bytes.

    A byte order mark decides; else UTF-8 where it fits, else what the document ``declared``, which is taken for what
    browsers take it for: ``iso-8859-1`` and ``ascii`` for Windows-1252, ``gb2312`` for GB 18030. A text that is UTF-8 but for
    some lines is read line by line, those as Windows-1252. What is left is guessed by charset-normalizer, for a text with
    few letters beyond ASCII Windows-1252: a guess on a few bytes is none. Raises :class:`Unreadable` for what is no text.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _checked(content.decode(encoding, errors="replace"), encoding)
    if b"\0" in content[:_SAMPLE_BYTES]:
        raise Unreadable("is a binary file")
    try:
        return _checked(content.decode(), "utf-8")
    except UnicodeDecodeError:
        pass
    if declared is not None and (found := _decoded_as(content, declared)) is not None:
        return _checked(*found)
    return _checked(*_guessed(content))


def cleaned(text: str) -> str:
    """The text with ``\\n`` line ends, without control characters, in normal form C; tabs and page ends (``\\f``) stay."""
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return text if text.isascii() else _STRETCH.sub(_composed, text)


def _composed(stretch: re.Match[str]) -> str:
    return stretch[0] if stretch[0].isascii() else unicodedata.normalize("NFC", stretch[0])


def _checked(text: str, encoding: str) -> Decoded:
    replaced = text.count("\ufffd")
    unreadable = replaced + sum(len(found) for found in re.findall("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]+", text))
    if unreadable > _MOST_UNREADABLE * len(text):
        raise Unreadable("is a binary file, or a text in an unknown encoding; save it as UTF-8")
    return Decoded(text=cleaned(text), encoding=encoding, num_replaced=replaced)


def _decoded_as(content: bytes, declared: str) -> tuple[str, str] | None:
    try:
        name = codecs.lookup(declared).name
        if name in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"):
            return None  # it is not UTF-8, and has no byte order mark and no NUL
        encoding = _AS_BROWSERS.get(name, name)
        return content.decode(encoding), encoding
    except (LookupError, ValueError):
        return None


def _guessed(content: bytes) -> tuple[str, str]:
    lines = content.split(b"\n")
    beyond = [line for line in lines if not line.isascii()]
    if sum(_is_utf8(line) for line in beyond) * 2 >= len(beyond):
        return "\n".join(_line(line) for line in lines), "mixed"
    sample = b"\n".join(beyond)[:_SAMPLE_BYTES]
    num_beyond = sum(byte > 127 for byte in sample)
    few = num_beyond <= max(_FEWEST_TO_GUESS, _FEW_LETTERS * len(content[:_SAMPLE_BYTES]))
    best = None if few else from_bytes(sample).best()
    encoding = "cp1252" if best is None else best.encoding
    return content.decode(encoding, errors="replace"), encoding


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")
