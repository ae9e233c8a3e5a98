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
    """The pages without lines at their top and bottom that half of them have, or that begin or end with the page's number.

    A number is the page's where it is as far from the page's place in the file as on half of the pages. Such lines are
    looked for from the outside in, and no page is emptied. Fewer than four pages have none.
    """
    filled = [page for page in pages if page]
    least = max(_FEWEST_PAGES - 1, _REPEATED_PART * len(filled))
    if len(filled) < _FEWEST_PAGES:
        return list(pages)
    seen = Counter(line for page in filled for line in {page[at] for at in _margin(page)})
    offsets = Counter(
        offset
        for number, page in enumerate(pages)
        for offset in {offset for at in _margin(page) for offset in _offsets(page[at], number)}
    )

    def goes(line: str, number: int) -> bool:
        return seen[line] >= least or any(offsets[offset] >= least for offset in _offsets(line, number))

    kept = []
    for number, page in enumerate(pages):
        start, end = 0, len(page)
        while start < min(_MARGIN_LINES, end - 1) and goes(page[start], number):
            start += 1
        while end > max(len(page) - _MARGIN_LINES, start + 1) and goes(page[end - 1], number):
            end -= 1
        kept.append(page[start:end])
    return kept


def _margin(page: Page) -> Iterator[int]:
    """The places of its first and last lines."""
    return (at for at in range(len(page)) if at < _MARGIN_LINES or at >= len(page) - _MARGIN_LINES)


def _offsets(line: str, page: int) -> set[int]:
    """How far the numbers that a short line begins and ends with are from the page's place."""
    if len(line) > _MOST_NUMBERED_CHARS:
        return set()
    numbers = [*re.findall(r"^\D{0,6}(\d{1,4})\b", line), *re.findall(r"\b(\d{1,4})\D{0,6}$", line)]
    return {int(number) - page for number in numbers}
