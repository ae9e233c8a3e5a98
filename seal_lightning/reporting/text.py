"""Text from models and data, made safe to show: every character visible, of bounded length, escaped for Markdown."""

from __future__ import annotations

import re

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~!$&])")
_BACKTICKS = re.compile(r"`+")


def escape_invisible(text: str, keep: str = "\n\t") -> str:
    """Replace characters that are not printable by escapes, except those of ``keep``.

    They could steer a terminal, or hide and reorder the text around them.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def excerpt(text: str, limit: int) -> str:
    """Return the first ``limit`` characters, invisible ones escaped, and say how many more there are."""
    start = escape_invisible(text[:limit].replace("\r\n", "\n"))
    return start if len(text) <= limit else f"{start} … (and {len(text) - limit:,} more characters)"


def label(text: str, limit: int = 120) -> str:
    """Return a text on one line for cells, legends and headings, cut to ``limit`` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return " ".join(excerpt(short, limit).split())


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is: no line break, no tag, no link, no formula."""
    return _MARKDOWN.sub(r"\\\1", " ".join(escape_invisible(text).split()))


def fenced(text: str) -> list[str]:
    """Return the lines of a Markdown code block; its fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(found) for found in _BACKTICKS.findall(text)), default=0))
    return [f"{fence}text", escape_invisible(text), fence]


def shown_seconds(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
