"""The text of a piece of HTML within another text."""

from __future__ import annotations

from html.parser import HTMLParser

_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg", "iframe", "object"})
_LINES = frozenset({"br", "p", "div", "li", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "summary"})


class _Text(HTMLParser):
    """Scripts, styles and comments are passed over; nothing is fetched or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._unseen: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen is None and tag in _UNSEEN:
            self._unseen = tag
        elif self._unseen is None and tag == "img":
            self.found.append(dict(attrs).get("alt") or "")
        elif tag in _LINES:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = None
        elif tag in _LINES:
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if self._unseen is None:
            self.found.append(" ".join(data.split()) if not data.strip() else data)


def text_of_fragment(html: str) -> str:
    """What a reader sees of it, a line for each of its blocks."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.found).split("\n"))
    return "\n".join(line for line in lines if line)
