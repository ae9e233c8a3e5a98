"""A text that is told while it is written: only what no later token can take back."""

from __future__ import annotations

from collections.abc import Sequence

_UNKNOWN = "\ufffd"
"""What a tokenizer writes for bytes that are no character yet."""


class GrowingText:
    """Tells a growing text in pieces, up to the first stop string.

    Held back are a beginning of a stop string, bytes that are no character yet, and white space at the end, which some
    tokenizers take away before the next word.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._told = ""
        self.is_stopped = False
        """Whether a stop string was seen: the text is over."""

    def grown_to(self, text: str) -> str:
        """What is new and sure, now that all of the text is this."""
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        if cut is not None:
            self.is_stopped = True
            return self._new(text[:cut])
        return self._new(text[: len(text) - self._unsure(text)].rstrip())

    def rest(self, whole: str) -> str:
        """What was not told yet of the whole text."""
        return self._new(whole)

    def _new(self, sure: str) -> str:
        """Nothing where the sure part is not what was told and more: it may be again, with the next tokens."""
        if len(sure) <= len(self._told) or not sure.startswith(self._told):
            return ""
        piece, self._told = sure[len(self._told) :], sure
        return piece

    def _unsure(self, text: str) -> int:
        """How many characters at the end may still become others, or the start of a stop string."""
        half = len(text) - len(text.rstrip(_UNKNOWN))
        sure = text[: len(text) - half]
        longest = max(map(len, self._stop), default=0) - 1
        opening = next(
            (n for n in range(min(longest, len(sure)), 0, -1) if any(s.startswith(sure[-n:]) for s in self._stop)), 0
        )
        return half + opening
