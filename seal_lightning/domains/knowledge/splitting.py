"""Splits of a self-edit's text into pieces; every piece becomes one training sequence.

All functions expect ``\\n`` line ends (see :func:`readable`) and take time linear in the text, which can be anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

SplitName = Literal["format", "lines", "blocks", "whole"]
"""The split of an edit into sequences: that of the run's format, or one of :data:`WAYS`."""

_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_LIST_MARKER = re.compile(r"(?:\d{1,3}[.)]|[-*•])(?:\s+|\Z)")
_FIRST_OF_LIST = re.compile(r"[ \t]*1[.)](?!\d)")
_NEW_PARAGRAPH = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*\d{1,3}[.)][ \t])")
_QUESTION_START = r"[ \t]*+(?:\d{1,3}[.)])?[ \t#*]*+Question[ \t]*+\d*+[ \t]*+:"
"""Possessive throughout: a backtracking pattern would take time quadratic in a line of blanks."""
_QUESTION = re.compile(rf"^(?={_QUESTION_START})", re.MULTILINE | re.IGNORECASE)


def readable(text: str) -> str:
    """Return the text without NUL characters and lone surrogates, which break tokenizers, and with ``\\n`` line ends."""
    return _UNREADABLE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def blocks(text: str) -> list[str]:
    """Split at lines of three or more dashes."""
    pieces: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _is_separator(line):
            pieces.append([])
        else:
            pieces[-1].append(line)
    return _filled("\n".join(piece) for piece in pieces)


def lines(text: str) -> list[str]:
    """Split into lines, without those of dashes only."""
    return _filled(line for line in text.split("\n") if not _is_separator(line))


def versions(text: str) -> list[str]:
    """Split at lines of dashes, or without any into paragraphs and items of numbered lists."""
    found = blocks(text)
    return found if len(found) > 1 else _filled(p for block in found for p in _NEW_PARAGRAPH.split(block))


def question_answer_pairs(text: str) -> list[str]:
    """Split at lines "Question n:"; a piece is a question and its answer.

    A single line before the first question is dropped; several lines are a piece of their own.
    """
    pairs: list[str] = []
    for block in blocks(text):
        pieces = _filled(_QUESTION.split(block))
        if len(pieces) > 1 and not _QUESTION.match(pieces[0]) and "\n" not in pieces[0]:
            del pieces[0]
        pairs += pieces
    return pairs


def without_chatty_opening(text: str) -> str:
    """Drop a first line such as "Sure, here is the list:".

    Our reading of "a chatty first line before '1.' is dropped": the text's second filled line starts with "1." (or
    "1)") and its first does not. Two or more lines before "1.", and a line before a list of dashes, are content and
    stay.
    """
    all_lines = text.split("\n")
    filled = (index for index, line in enumerate(all_lines) if line.strip() and not _is_separator(line))
    first, second = next(filled, None), next(filled, None)
    if first is None or second is None:
        return text
    if _FIRST_OF_LIST.match(all_lines[second]) and not _FIRST_OF_LIST.match(all_lines[first]):
        return "\n".join(all_lines[second:])
    return text


def whole(text: str) -> list[str]:
    """Return the text as one piece, with its lines of dashes."""
    return _filled([text])


def as_one_block(text: str) -> str:
    """Drop lines of dashes, so that :func:`blocks` restores texts joined by such lines."""
    return "\n".join(blocks(text))


def without_list_marker(piece: str) -> str:
    """Drop a leading "1. ", "1) ", "- ", "* " or "• "."""
    marker = _LIST_MARKER.match(piece)
    return piece[marker.end() :] if marker else piece


def after_heading(text: str, heading: str) -> str | None:
    """Return the text after the first line that starts with the heading; None if no line does.

    Case, Markdown's ``#`` and ``*`` and, for a heading on its own line, its colon are ignored.
    """
    words = re.escape(heading.strip().rstrip(":").rstrip())
    pattern = rf"^[ \t#*]*{words}[ \t*]*(?::[ \t*]*|$)"
    found = re.search(pattern, text, re.MULTILINE | re.IGNORECASE)
    return None if found is None else text[found.end() :]


def _is_separator(line: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= 3 and not stripped.strip("-")


def _filled(pieces: Iterable[str]) -> list[str]:
    return [stripped for piece in pieces if (stripped := piece.strip())]


WAYS: Mapping[str, Callable[[str], list[str]]] = {
    "lines": lambda text: lines(without_chatty_opening(text)),
    "blocks": blocks,
    "whole": whole,
}
"""Splits other than the format's, by the values of ``SelfEdit.directives["split"]``."""
