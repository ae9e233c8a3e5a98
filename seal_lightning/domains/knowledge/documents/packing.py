"""A document's sections cut into passages within a budget of tokens."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from semantic_text_splitter import TextSplitter

from seal_lightning.domains.knowledge.documents.markdown import Section

CountTokens = Callable[[str], int]

_SMALL = 0.25
"""A section under this share of the budget is joined to a neighbour where both fit one passage."""
_MOST_CHARS_PER_TOKEN = 64
"""A longer text than this many times the budget is over it, without a question to the tokenizer."""
_ESTIMATED = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_LETTERS_PER_TOKEN = 6
_WORD = re.compile(r"\w+")


def estimated_tokens(text: str) -> int:
    """Estimate the number of tokens: one per six letters of a word of ``a-z``, per digit and per other character."""
    return sum(-(-len(found) // _LETTERS_PER_TOKEN) for found in _ESTIMATED.findall(text))


def num_words(text: str) -> int:
    """Count words. Scripts without blanks have one per four characters, and endless words one per forty."""
    runs = _WORD.findall(text)
    return sum(1 if run.isascii() and len(run) <= 40 else -(-len(run) // (40 if run.isascii() else 4)) for run in runs)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The content of a passage."""

    text: str
    headings: tuple[str, ...]
    """Those that all of it stands under, outermost first; further headings are in the text."""
    page: int | None


@dataclass(frozen=True)
class Packing:
    """Cuts documents at headings, then between paragraphs, lines, sentences and words."""

    budget: int
    """Most tokens of a passage."""
    count: CountTokens
    min_words: int
    """A section with fewer words is joined to a neighbour, even where both must then be cut."""

    def pieces(self, sections: Sequence[Section]) -> Iterator[Piece]:
        """Yield the document's passages in order: every word once, under its headings, and none over the budget."""
        for group in self._groups([section for section in sections if section.paragraphs]):
            levels = zip(*(section.headings for section in group), strict=False)
            headings = tuple(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
            text, starts = "", list[tuple[int, int | None]]()  # (offset in the text, page) of each paragraph
            for section in group:
                # a heading is joined to its text, or it could become a passage of its own
                prefix = "".join(f"{heading}: " for heading in section.headings[len(headings) :])
                for paragraph in section.paragraphs:
                    starts.append((len(text), paragraph.page))
                    text += f"{prefix}{paragraph.text}\n\n"
                    prefix = ""
            for offset, chunk in self._chunks(text):
                place = bisect_right(starts, offset, key=lambda start: start[0])
                yield Piece(text=chunk, headings=headings, page=starts[max(place - 1, 0)][1])

    def _chunks(self, text: str) -> list[tuple[int, str]]:
        """Return the chunks with their offsets; a small one is evened out with the one before."""
        chunks = self._split(text, self.budget)
        for index in range(1, len(chunks)):
            (start, _), (offset, last) = chunks[index - 1 : index + 1]
            if self.count(last) < _SMALL * self.budget:
                both = text[start : offset + len(last)]
                halves = self._split(both, (max(1, min(self.count(both) // 2, self.budget)), self.budget))
                if len(halves) == 2:
                    chunks[index - 1 : index + 1] = [(start + begin, half) for begin, half in halves]
        return chunks

    def _split(self, text: str, capacity: int | tuple[int, int]) -> list[tuple[int, str]]:
        return TextSplitter.from_callback(self._bounded_count, capacity).chunk_indices(text)

    def _bounded_count(self, text: str) -> int:
        if len(text) > self.budget * _MOST_CHARS_PER_TOKEN:
            return len(text)
        return self.count(text)

    def _groups(self, sections: Sequence[Section]) -> list[list[Section]]:
        """Join small sections with the next one, and a small last one with the one before."""
        groups: list[list[Section]] = []
        sizes: list[int] = []
        for section in sections:
            size = self.count("\n\n".join((*section.headings, *(p.text for p in section.paragraphs))))
            if groups and self._is_joined(groups[-1], sizes[-1], size):
                groups[-1].append(section)
                sizes[-1] += size
            else:
                groups.append([section])
                sizes.append(size)
        if len(groups) > 1 and self._is_joined(groups[-1], sizes[-1], sizes[-2]):
            last = groups.pop()
            groups[-1] += last
        return groups

    def _is_joined(self, group: list[Section], size: int, other_size: int) -> bool:
        if size >= _SMALL * self.budget:
            return False
        words = sum(num_words(p.text) for section in group for p in section.paragraphs)
        return size + other_size <= self.budget or words < self.min_words
