"""What an adaptation tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Silent; a command shows a bar or lines instead."""

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A piece of work of ``total`` parts; what it yields is told how many more parts are done."""
        yield lambda parts: None

    def say(self, text: str) -> None:
        """Something worth knowing."""
