"""A document's text cut into passages: at headings first, then between paragraphs, lines, sentences, clauses and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise

from seal_lightning.domains.knowledge.documents.extract import Paragraph, Section
from seal_lightning.domains.knowledge.documents.sentences import clauses, sentences, words

CountTokens = Callable[[str], int]

_RUNS_A_PASSAGE = 8
_GRAINS_A_PASSAGE = 16
"""Smaller units are one: where passages end does not hang on them, and finding the best places takes time for each."""
_SMALL = 0.25
"""A section under this part of the budget goes with its neighbours where they fit one passage."""
_ESTIMATED = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_LETTERS_A_TOKEN = 6
_WORD = re.compile(r"\w+")


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, where no tokenizer says: a token for every six letters of a word of ``a-z`` and
    what is left of them, one for every digit, and one for every other character but blanks."""
    return sum(-(-len(found) // _LETTERS_A_TOKEN) for found in _ESTIMATED.findall(text))


def num_words(text: str) -> int:
    """How many words a text has. Scripts without blanks have one for four characters, and so have endless words."""
    runs = _WORD.findall(text)
    return sum(1 if run.isascii() and len(run) <= 40 else -(-len(run) // (40 if run.isascii() else 4)) for run in runs)


def together(parts: Iterable[str], length: int) -> list[str]:
    """Neighbouring parts as one up to this many characters; a longer part alone."""
    found: list[list[str]] = []
    size = 0
    for part in parts:
        if found and size + len(part) <= length:
            found[-1].append(part)
            size += len(part)
        else:
            found.append([part])
            size = len(part)
    return ["".join(run) for run in found]


class Bound(IntEnum):
    """What lies between two units of text; the smaller, the better a passage ends there."""

    SECTION = 0
    PARAGRAPH = 1
    LINE = 2
    SENTENCE = 3
    CLAUSE = 4
    WORD = 5
    CHARACTER = 6


Cut = tuple[Callable[[str], Iterable[str]], Bound]
"""A way to cut a text, and what then lies between its parts."""

_COST = {
    Bound.SECTION: 0.0,
    Bound.PARAGRAPH: 0.02,
    Bound.LINE: 0.1,
    Bound.SENTENCE: 0.15,
    Bound.CLAUSE: 1.0,
    Bound.WORD: 2.0,
    Bound.CHARACTER: 4.0,
}
"""What ending a passage there costs; a passage costs the square of the part of the budget it leaves empty."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of text that stays whole."""

    text: str
    """Without blanks at its ends."""
    joint: str
    """What stands between it and the text before."""
    bound: Bound
    """What that is."""
    tokens: int
    """With its joint."""
    page: int | None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What becomes a passage."""

    text: str
    headings: tuple[str, ...]
    """Those that all of it stands under, outermost first; where it spans sections, the further ones are in the text."""
    page: int | None


@dataclass(frozen=True)
class Packing:
    """How documents are cut."""

    budget: int
    """Tokens of a passage, at most."""
    count: CountTokens
    min_words: int
    """Of a section; one that has fewer goes with its neighbours, though they be cut for it."""

    def pieces(self, sections: Sequence[Section]) -> Iterator[Piece]:
        """The document's passages, in order: every word under its headings, once, and none over the budget.

        Takes time linear in the text.
        """
        for group in self._groups([section for section in sections if section.paragraphs]):
            headings = _common(section.headings for section in group)
            for units in self._packed(
                self._grains(u for section in group for u in self._units(section, len(headings)))
            ):
                yield Piece(text=_joined(units), headings=headings, page=units[0].page)

    def _groups(self, sections: Sequence[Section]) -> list[list[Section]]:
        """Sections that are cut as one: each alone, but small ones with the next, or the last with the one before."""
        groups: list[list[Section]] = []
        sizes: list[int] = []
        for section in sections:
            size = sum(self.count(f"\n\n{p.text}") for p in section.paragraphs)
            size += sum(self.count(f"\n\n{heading}") for heading in section.headings)
            if groups and self._go_together(groups[-1], sizes[-1], [section], size):
                groups[-1].append(section)
                sizes[-1] += size
            else:
                groups.append([section])
                sizes.append(size)
        if len(groups) > 1 and self._go_together(groups[-1], sizes[-1], groups[-2], sizes[-2]):
            last = groups.pop()
            groups[-1] += last
        return groups

    def _go_together(self, group: list[Section], size: int, other: list[Section], other_size: int) -> bool:
        if size >= _SMALL * self.budget:
            return False
        return size + other_size <= self.budget or self._is_tiny(group)

    def _is_tiny(self, group: list[Section]) -> bool:
        return sum(num_words(p.text) for section in group for p in section.paragraphs) < self.min_words

    def _units(self, section: Section, num_common: int) -> Iterator[Unit]:
        """A section's text, the headings first that its passage's title does not have."""
        bound = Bound.SECTION
        page = section.paragraphs[0].page
        for heading in section.headings[num_common:]:
            yield from self._cut(Paragraph(text=heading, page=page), bound)
            bound = Bound.CLAUSE  # a passage that ended with a heading would be a pity
        for paragraph in section.paragraphs:
            yield from self._cut(paragraph, bound)
            bound = Bound.PARAGRAPH

    def _cut(self, paragraph: Paragraph, bound: Bound) -> Iterator[Unit]:
        runs, single = (self._runs, Bound.WORD), (words, Bound.WORD)
        cuts = ((clauses, Bound.CLAUSE), runs, single, (self._characters, Bound.CHARACTER))
        joint = "\n\n"
        for line in paragraph.text.split("\n"):
            for sentence in sentences(line):
                for text, inner in self._fitting(sentence, cuts):
                    if stripped := text.strip():
                        found = joint if inner is None else inner[0]
                        tokens = max(1, self.count(found + stripped))
                        at = bound if inner is None else inner[1]
                        yield Unit(text=stripped, joint=found, bound=at, tokens=tokens, page=paragraph.page)
                joint, bound = (" " if sentence[-1:].isspace() else ""), Bound.SENTENCE
            joint, bound = "\n", Bound.LINE

    def _runs(self, text: str) -> list[str]:
        """Words, together where they are far below the budget: one alone is not worth a question to the tokenizer."""
        length = len(text) * self.budget // (_RUNS_A_PASSAGE * max(1, self.count(text)))
        return together(words(text), max(1, length))

    def _fitting(self, text: str, cuts: tuple[Cut, ...]) -> Iterator[tuple[str, tuple[str, Bound] | None]]:
        """A text in pieces within the budget, each but the first with what lies between it and the one before."""
        if not cuts or self.count(f"\n\n{text.strip()}") <= self.budget:
            yield text, None
            return
        joint, (cut, bound) = "", cuts[0]
        for number, part in enumerate(cut(text)):
            for smaller, between in self._fitting(part, cuts[1:]):
                yield smaller, between or ((joint, bound) if number else None)
            joint = " " if part[-1:].isspace() else ""

    def _characters(self, word: str) -> Iterator[str]:
        """A word over the budget in parts that are not."""
        step = max(1, len(word) * self.budget // max(1, self.count(word)))
        start = 0
        while start < len(word):
            part = word[start : start + step]
            while len(part) > 1 and self.count(f"\n\n{part}") > self.budget:
                part = part[: len(part) * 3 // 4 or 1]
            yield part
            start += len(part)

    def _grains(self, units: Iterable[Unit]) -> list[Unit]:
        """The units, tiny ones as one with those that follow."""
        grains: list[Unit] = []
        for unit in units:
            last = grains[-1] if grains else None
            if last is not None and last.tokens + unit.tokens <= self.budget // _GRAINS_A_PASSAGE:
                grains[-1] = replace(last, text=last.text + unit.joint + unit.text, tokens=last.tokens + unit.tokens)
            else:
                grains.append(unit)
        return grains

    def _packed(self, units: list[Unit]) -> Iterator[list[Unit]]:
        """Units in passages within the budget, cut where it costs least in all."""
        for start, end in self._cheapest(units):
            yield from self._checked(units[start:end])

    def _cheapest(self, units: list[Unit]) -> list[tuple[int, int]]:
        """First and last bounds of passages; the cheapest way to each place from those within a budget before it."""
        costs, back = [0.0], [0]
        for end in range(1, len(units) + 1):
            size, best, start = 0, float("inf"), end - 1
            ending = _COST[units[end].bound] if end < len(units) else 0.0
            for first in range(end - 1, -1, -1):
                size += units[first].tokens
                if size > self.budget and first < end - 1:
                    break
                cost = costs[first] + max(0.0, 1 - size / self.budget) ** 2
                if cost < best:
                    best, start = cost, first
            costs.append(best + ending)
            back.append(start)
        places = [len(units)]
        while places[-1] > 0:
            places.append(back[places[-1]])
        return list(pairwise(reversed(places)))

    def _checked(self, units: list[Unit]) -> Iterator[list[Unit]]:
        """The units as one passage; as two where, joined, they are over the budget, as their sum was not."""
        if len(units) > 1 and self.count(_joined(units)) > self.budget:
            yield from self._checked(units[: len(units) // 2])
            yield from self._checked(units[len(units) // 2 :])
        else:
            yield units


def _joined(units: Sequence[Unit]) -> str:
    return units[0].text + "".join(unit.joint + unit.text for unit in units[1:])


def _common(paths: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    first, *others = paths
    length = min(
        (next((i for i, (a, b) in enumerate(zip(first, o, strict=False)) if a != b), min(len(first), len(o))))
        for o in [first, *others]
    )
    return first[:length]
