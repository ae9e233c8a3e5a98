"""Where sentences end: rules for scripts with spaces and for Chinese and Japanese, in time linear in the text."""

from __future__ import annotations

import re
from itertools import pairwise

_END = re.compile(
    r"(?<![.!?…؟۔।])[.!?…؟۔।]++[\"'”’»)\]]*+(?P<blank>\s++)"  # the look-behind: a run is tried once, at its start
    r"|(?<![。！？；])[。！？；]++[」』”’）]*+(?P<gap>\s*+)"
)
_NEVER_LAST = re.compile(
    r"mrs?|ms|dr|prof|rev|hon|st|mt|ft|gen|col|capt|lt|sgt|sen|gov|pres|cf|vs|viz|e\.?g|i\.?e|approx|ca|al|resp|incl"
    r"|bzw|z\.b|d\.h|u\.a|bspw",
    re.IGNORECASE,
)
"""Abbreviations that something always follows. "etc.", "Inc." and "U.S." may end a sentence: they are not among them."""
_BEFORE_NUMBERS = re.compile(r"nos?|nr|pp?|figs?|eqs?|secs?|ch|chap|vol|art", re.IGNORECASE)
_LAST_WORD = re.compile(r"[\w.&]{1,12}$")
_GOES_ON = re.compile(r"[a-zà-öø-ÿ,;:)\]]")
_LIST_NUMBER = re.compile(r"\s*(?:\d{1,3}|[A-Za-z])\.")
_CLAUSE_END = re.compile(  # the look-behind for a blank: a run of them is tried once, at its start
    r"(?<=[,;:，、；：])\s++|(?<=[，、；：])|(?<!\s)\s++(?=[—–(\[])|(?<=[—–)\]])\s++"
)


def sentences(line: str) -> list[str]:
    """The sentences of a text without line ends, each with the blanks behind it: joined, they are the text again.

    A full stop ends none behind a title, an initial or an abbreviation that something follows ("Dr. No", "J. Smith",
    "e.g. iron"), behind the number of a list, and before a small letter.
    """
    found, start = [], 0
    for end in _END.finditer(line):
        if end.end() < len(line) and _ends(line, start, end):
            found.append(line[start : end.end()])
            start = end.end()
    return [*found, line[start:]] if start < len(line) else found


def clauses(sentence: str) -> list[str]:
    """A sentence's pieces at commas, colons, dashes and brackets, with the blanks behind them."""
    return _cut(sentence, [end.end() for end in _CLAUSE_END.finditer(sentence)])


def words(clause: str) -> list[str]:
    """A text's words, with the blanks behind them."""
    return _cut(clause, [blank.end() for blank in re.finditer(r"\s+", clause)])


def _cut(text: str, places: list[int]) -> list[str]:
    bounds = [0, *places, len(text)]
    return [text[a:b] for a, b in pairwise(bounds) if a < b]


def _ends(line: str, start: int, end: re.Match[str]) -> bool:
    if end["blank"] is None:
        return True  # 。 is no abbreviation's
    mark = line[end.start() : end.start("blank")]
    if _GOES_ON.match(line, end.end()):
        return False
    if mark != ".":
        return True
    word = _LAST_WORD.search(line, max(start, end.start() - 12), end.start())
    if word is None:
        return True
    if _BEFORE_NUMBERS.fullmatch(word[0]) and line[end.end()].isdigit():
        return False
    if _NEVER_LAST.fullmatch(word[0]) or (len(word[0]) == 1 and word[0].isupper()):
        return False
    return _LIST_NUMBER.fullmatch(line, start, end.start() + 1) is None
