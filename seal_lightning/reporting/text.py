"""Text from models and data made fit to be shown: every character visible, and never more than a page can bear."""

from __future__ import annotations

_SEEN = "\n\t"


def escaped_unseen(text: str) -> str:
    """A text whose every character can be seen, as it is or as an escape; line ends and tabs stay."""
    return "".join(
        c if c.isprintable() or c in _SEEN else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def visible(text: str, limit: int) -> str:
    """The first ``limit`` characters, what cannot be seen escaped (it could hide or turn around what can), and how many
    more there are."""
    start = escaped_unseen(text[:limit].replace("\r\n", "\n"))
    return start if len(text) <= limit else f"{start} … (and {len(text) - limit:,} more characters)"


def label(text: str, limit: int = 120) -> str:
    """As :func:`visible`, on one line, for cells, legends and headings."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return " ".join(visible(short, limit).split())


def shown_seconds(seconds: float) -> str:
    """A duration in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def shown_bytes(count: int) -> str:
    """Memory in GiB."""
    return f"{count / 2**30:.2f} GiB"
