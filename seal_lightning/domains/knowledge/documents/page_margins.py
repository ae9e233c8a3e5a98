"""Running headers and footers of a document's pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

_MARGIN_LINES = 2
"""At the top and bottom of a page, lines that can be a running header or footer."""
_REPEATED_PART, _FEWEST_PAGES = 0.5, 4
_MOST_NUMBERED_CHARS = 80

Page = list[str]
"""Its lines, not blank."""


def without_margins(pages: Sequence[Page]) -> list[Page]:
    """The pages without lines at their top and bottom that half of them have, or that hold the number of the page.

    What differs in numbers only is the same line. A number is the page's where it is as far from the page's place in the
    file as on half of the pages. Fewer than four pages have no such lines.
    """
    filled = [page for page in pages if page]
    least = max(_FEWEST_PAGES - 1, _REPEATED_PART * len(filled))
    if len(filled) < _FEWEST_PAGES:
        return list(pages)
    seen = Counter(line for page in filled for line in {_numberless(page[at]) for at in _margin(page)})
    offsets = Counter(
        offset
        for number, page in enumerate(pages)
        for offset in {offset for at in _margin(page) for offset in _offsets(page[at], number)}
    )
    kept = []
    for number, page in enumerate(pages):
        goes = {
            at
            for at in _margin(page)
            if seen[_numberless(page[at])] >= least or any(offsets[o] >= least for o in _offsets(page[at], number))
        }
        kept.append([line for at, line in enumerate(page) if at not in goes])
    return kept


def _margin(page: Page) -> Iterator[int]:
    """The places of its first and last lines."""
    return (at for at in range(len(page)) if at < _MARGIN_LINES or at >= len(page) - _MARGIN_LINES)


def _numberless(line: str) -> str:
    return re.sub(r"\d+", "#", line.lower())


def _offsets(line: str, page: int) -> set[int]:
    """How far the numbers that a short line begins and ends with are from the page's place."""
    if len(line) > _MOST_NUMBERED_CHARS:
        return set()
    numbers = [*re.findall(r"^\D{0,6}(\d{1,4})\b", line), *re.findall(r"\b(\d{1,4})\D{0,6}$", line)]
    return {int(number) - page for number in numbers}
