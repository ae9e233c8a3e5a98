"""What a report is made of. The page and the Markdown file are two ways to write the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_ROWS = 120


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A sentence or two."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first ``num_text_columns`` read from the left, the others are numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    num_text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture and, for those who cannot see it, its numbers."""

    title: str
    picture: bytes
    """SVG or PNG."""
    description: str
    numbers: Table | None = None
    is_small: bool = False
    """Two fit beside each other."""

    @property
    def media_type(self) -> str:
        """Of the picture."""
        return "image/png" if self.picture.startswith(b"\x89PNG") else "image/svg+xml"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A text beside others."""

    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Texts that are to be compared, and a table below them."""

    title: str
    columns: tuple[Column, ...]
    below: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A long text that is shown on demand."""

    title: str
    text: str


Block = Paragraph | Table | Chart | Columns | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole of it."""

    title: str
    subtitle: str
    sections: tuple[Section, ...] = field(default_factory=tuple)


def capped(rows: Sequence[tuple[str, ...]], limit: int = MAX_ROWS) -> tuple[tuple[str, ...], ...]:
    """The first ``limit`` rows and how many more there are: a page stays of bounded size."""
    if len(rows) <= limit:
        return tuple(rows)
    width = len(rows[0])
    return (*rows[:limit], (f"… and {len(rows) - limit:,} more", *[""] * (width - 1)))


def without_empty_columns(
    headings: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The columns that have something in some row; the first always."""
    keep = [i for i in range(len(headings)) if i == 0 or any(row[i] not in ("–", "") for row in rows)]
    return tuple(headings[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in rows)
