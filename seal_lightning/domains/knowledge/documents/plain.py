"""Plain text, reStructuredText among it: paragraphs, lists and headings that are underlined."""

from __future__ import annotations

import re

from seal_lightning.domains.knowledge.documents.extract import Extract, Outline, titled

_RULE = re.compile(r"([=\-~^\"'`#*+:.<>_])\1{2,}\s*")
_NO_TEXT = re.compile(r"(?:={2,}|-{2,})(?: +(?:={2,}|-{2,}))+\s*|\.\. _[^:]{1,80}:\s*")
"""Rules of reStructuredText's tables, and its labels."""
_ITEM = re.compile(r"(?:[-*•‣◦+]|\(?(?:\d{1,3}|[A-Za-z])[.)])\s|:[A-Z][\w ]{1,40}:\s")
_COLUMNS = re.compile(r"\S(?: {3,}|\t+| \| )\S")
_FULL_LINE = 45
"""Characters from which on a line ends because the next word did not fit, not because something is over."""
_MOST_HEADING_CHARS = 120


def read_plain(text: str) -> Extract:
    """The text's paragraphs, between blank lines.

    A line over a rule of ``=``, ``-``, ``~`` … as long as it is a heading; levels go by the order in which the rules
    first come, as in reStructuredText. Lines that were broken to a width are joined; items of lists, lines in columns and
    short lines stay lines. The end of a page ends a paragraph. Rules and labels are left out.
    """
    outline, levels, block = Outline(), dict[str, int](), list[str]()

    def end_block() -> None:
        outline.paragraph(rewrapped(block))
        block.clear()

    lines = text.replace("\f", "\n\n").split("\n")
    for number, line in enumerate(lines):
        if _is_rule(line) and number and _is_heading(lines, number):
            block and block.pop()
            end_block()
            outline.heading(levels.setdefault(line.strip()[0], len(levels) + 1), lines[number - 1])
        elif not line.strip() or _is_rule(line):
            end_block()
        elif not _NO_TEXT.fullmatch(line):
            block.append(line)
    end_block()
    return titled(None, outline.sections())


def rewrapped(lines: list[str]) -> str:
    """Lines with those joined that were one before they were broken to a width."""
    joined: list[str] = []
    goes_on = False
    for line in lines:
        stripped = " ".join(line.split())
        if not stripped:
            continue
        in_columns = _COLUMNS.search(line.strip()) is not None
        if goes_on and joined and not in_columns and not starts_line(stripped):
            joined[-1] += f" {stripped}"
        else:
            joined.append(re.sub(r"\s{2,}", "  ", line.strip()) if in_columns else stripped)
        goes_on = len(line.rstrip()) >= _FULL_LINE and not in_columns
    return "\n".join(joined)


def starts_line(line: str) -> bool:
    """Whether a line begins an item of a list, which no line before it goes on with."""
    return _ITEM.match(line) is not None


def _is_rule(line: str) -> bool:
    return _RULE.fullmatch(line) is not None


def _is_heading(lines: list[str], number: int) -> bool:
    """Whether the line above a rule is its heading: one line, after a blank one or another rule, no longer than its rule."""
    title = lines[number - 1]
    before = lines[number - 2] if number > 1 else ""
    alone = not before.strip() or _is_rule(before)
    long_enough = len(title.rstrip()) <= len(lines[number].rstrip()) + 2
    fits = 0 < len(title.strip()) <= _MOST_HEADING_CHARS and not title.startswith((" ", "\t"))
    return alone and long_enough and fits and not _is_rule(title)
