"""The blocks of a report, and their renderers: a Markdown file, an HTML page, and tables in the terminal."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from seal_lightning.reporting.text import escape_invisible, escape_markdown, fenced

MAX_ROWS = 120


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """A sentence or two."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells that are already formatted."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: Collection[int] = (0,)
    """Columns that are aligned left; the others hold numbers."""
    folded: bool = False
    """Whether the page shows it on demand only."""
    footer: tuple[tuple[str, ...], ...] = ()
    """Rows below a line, such as a mean over the others."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its numbers as a table."""

    title: str
    picture: bytes
    """SVG."""
    description: str
    numbers: Table
    is_small: bool = False
    """Whether two fit side by side."""

    @property
    def data_url(self) -> str:
        """The picture as a URL that needs no file."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.picture).decode()}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One of several texts side by side."""

    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Texts side by side, and a table below them."""

    title: str
    columns: tuple[Column, ...]
    below: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A long text that the page shows on demand."""

    title: str
    text: str


Block = TextBlock | Table | Chart | Columns | Folded


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A heading with its blocks."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report, ready to be rendered."""

    title: str
    subtitle: str
    sections: tuple[ReportSection, ...] = ()


def capped(rows: Sequence[tuple[str, ...]], limit: int = MAX_ROWS) -> tuple[tuple[str, ...], ...]:
    """Return the first ``limit`` rows, and a row that says how many more there are."""
    if len(rows) <= limit:
        return tuple(rows)
    return (*rows[:limit], (f"… and {len(rows) - limit:,} more", *[""] * (len(rows[0]) - 1)))


def without_empty_columns(
    headings: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Drop the columns that are empty in every row; the first one is always kept."""
    keep = [i for i in range(len(headings)) if i == 0 or any(row[i] not in ("–", "") for row in rows)]
    return tuple(headings[i] for i in keep), tuple(tuple(row[i] for i in keep) for row in rows)


def show_table(table: Table) -> None:
    """Print a table at its full width, in a narrow terminal too; nothing in it is taken for markup."""
    if table.title:
        print_line(table.title)
    drawn = RichTable()
    for i, heading in enumerate(table.headings):
        drawn.add_column(Text(heading), justify="left" if i in table.text_columns else "right", no_wrap=True)
    for rows in (table.rows, table.footer):
        drawn.add_section()
        for row in rows:
            drawn.add_row(*(Text(escape_invisible(cell, keep="")) for cell in row))
    console = Console()
    width = Measurement.get(console, console.options.update_width(10_000), drawn).maximum
    Console(width=max(console.width, width)).print(drawn)


def print_line(line: str) -> None:
    """Print a line as it is: no markup, no breaks, invisible characters escaped."""
    Console().print(Text(escape_invisible(line, keep="")), soft_wrap=True)


# --- HTML


def html_page(report: Report) -> str:
    """Render a report as one HTML page that loads nothing and runs nothing.

    The template escapes every text; a content security policy forbids scripts and requests.
    """
    source = (files("seal_lightning.reporting") / "page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        finalize=lambda value: escape_invisible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(source).render(report=report, kind=lambda block: type(block).__name__)


# --- Markdown


def markdown_text(report: Report) -> str:
    """Render a report as Markdown: tables, texts as code blocks, and charts as their numbers."""
    lines = [f"# {escape_markdown(report.title)}", "", escape_markdown(report.subtitle), ""]
    for section in report.sections:
        lines += [f"## {escape_markdown(section.title)}", ""]
        for block in section.blocks:
            lines += _lines(block)
    return "\n".join(lines).rstrip("\n") + "\n"


def markdown_table(table: Table) -> Iterator[str]:
    """Yield the lines of a table, without its title and note."""
    yield _row(table.headings)
    yield "| " + " | ".join("---" if i in table.text_columns else "---:" for i in range(len(table.headings))) + " |"
    yield from map(_row, (*table.rows, *table.footer))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield from (escape_markdown(block.text), "")
        return
    yield from (f"### {escape_markdown(block.title)}", "")
    if isinstance(block, Table):
        yield from _table_and_note(block)
    elif isinstance(block, Chart):
        yield from (f"{escape_markdown(block.description)} (The picture is in the HTML page.)", "")
        yield from _table_and_note(block.numbers)
    elif isinstance(block, Columns):
        for column in block.columns:
            yield from (f"**{escape_markdown(column.heading)}**", "", *fenced(column.text), "")
        if block.below is not None:
            yield from _lines(block.below)
    else:
        yield from (*fenced(block.text), "")


def _table_and_note(table: Table) -> Iterator[str]:
    yield from (*markdown_table(table), "")
    if table.note:
        yield from (escape_markdown(table.note), "")
