"""Normalised words of a text, and when two words count as the same.

The steps are SQuAD's (Rajpurkar et al., arXiv 1606.05250): lowercase, no punctuation, no articles, single spaces. In
addition, accents are folded and number words become digits ("twenty-one" and "21" agree).
"""

from __future__ import annotations

import re
import unicodedata

ARTICLES = frozenset({"a", "an", "the"})

FUNCTION_WORDS = frozenset(
    word
    for line in (
        "about also and as at but by for from in into of on or out so than then there to up upon with",
        "am are be been being can could did do does had has have is may might was were will would",
        "he her his i it its she that their them these they this those we which who whom",
        "s st nd rd th",  # what is left of "1870s" and "19th"
    )
    for word in line.split()
)
"""Prepositions, conjunctions, auxiliaries and pronouns: they say little about whether an answer is right."""

_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen"]
_TEENS += ["fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_VALUES = {word: value for value, word in enumerate(["zero", *_UNITS, *_TEENS])}
_NUMBER_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_NUMBER_WORDS = re.compile(rf"\b(?:({'|'.join(_TENS)})[- ]({'|'.join(_UNITS)})|({'|'.join(_NUMBER_VALUES)}))\b")
_INSIDE_A_WORD = re.compile(r"['’]|(?<=\d),(?=\d{3}(?!\d))")  # apostrophes, and the commas of 50,000
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")

_SHORTEST_STEM = 5


def words(text: str) -> list[str]:
    """Return the normalised words and numbers of a text, in order; empty where only punctuation and articles remain."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    text = "".join(c for c in decomposed if not unicodedata.combining(c))
    text = _INSIDE_A_WORD.sub("", text)
    text = _NUMBER_WORDS.sub(lambda match: str(sum(_NUMBER_VALUES[word] for word in match.groups() if word)), text)
    return [word for word in _WORD.findall(text) if word not in ARTICLES]


def is_number(word: str) -> bool:
    """Return True if one of the :func:`words` is a number."""
    return word[0].isdecimal()


def alike(word: str, other: str) -> bool:
    """Return True if two of the :func:`words` are forms of one ("variable", "variability"; "Catholic", "Catholicism").

    They are when equal, or when they share at least their first 5 letters and half of the longer one. Numbers have no
    forms.
    """
    if is_number(word) or is_number(other):
        return word == other
    stem = max(_SHORTEST_STEM, -(-max(len(word), len(other)) // 2))
    return word[:stem] == other[:stem]
