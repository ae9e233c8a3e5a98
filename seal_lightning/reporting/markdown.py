"""A report as Markdown: tables, and texts in fences. Charts are there as their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from seal_lightning.reporting.blocks import Block, Chart, Columns, Folded, Paragraph, Report, Table
from seal_lightning.reporting.text import escaped_unseen

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~!$&])")
_BACKTICKS = re.compile(r"`+")


def markdown_text(report: Report) -> str:
    """The whole report."""
    lines = [f"# {escaped(report.title)}", "", escaped(report.subtitle), ""]
    for section in report.sections:
        lines += [f"## {escaped(section.title)}", ""]
        for block in section.blocks:
            lines += _lines(block)
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield from (escaped(block.text), "")
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Chart):
        yield from (
            f"### {escaped(block.title)}",
            "",
            f"{escaped(block.description)} (The picture is in the HTML page.)",
            "",
        )
        if block.numbers is not None:
            yield from _table(block.numbers, with_title=False)
    elif isinstance(block, Columns):
        yield from (f"### {escaped(block.title)}", "")
        for column in block.columns:
            yield from (f"**{escaped(column.heading)}**", "", *_fenced(column.text), "")
        if block.below is not None:
            yield from _table(block.below)
    elif isinstance(block, Folded):
        yield from (f"### {escaped(block.title)}", "", *_fenced(block.text), "")


def _table(table: Table, *, with_title: bool = True) -> Iterator[str]:
    if with_title:
        yield from (f"### {escaped(table.title)}", "")
    yield _row(table.headings)
    yield _row_of(["---" if i < table.num_text_columns else "---:" for i in range(len(table.headings))])
    yield from map(_row, table.rows)
    yield ""
    if table.note:
        yield from (escaped(table.note), "")


def _row(cells: tuple[str, ...]) -> str:
    return _row_of([escaped(cell) for cell in cells])


def _row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text that is nothing but text: no line break, no tag, no link, no formula."""
    return _SPECIAL.sub(r"\\\1", " ".join(escaped_unseen(text).split()))


def _fenced(text: str) -> list[str]:
    """In a fence longer than any row of backticks in it."""
    fence = "`" * max(3, 1 + max((len(found) for found in _BACKTICKS.findall(text)), default=0))
    return [f"{fence}text", escaped_unseen(text), fence]
