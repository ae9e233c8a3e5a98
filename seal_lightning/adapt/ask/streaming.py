"""Text of an answer while it is written, in pieces that no later token can take back.

transformers' ``TextStreamer`` is not used: it prints stop strings, and drops the blanks behind a line end of SentencePiece
tokenizers, so its pieces would not add up to the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF = "\ufffd"
"""The character of a tokenizer for bytes that are not a character yet."""

Emit = Callable[[str], None]


class AnswerStopped(Exception):
    """The answer was cancelled before its end; the emitted pieces stand."""


class TextStream:
    """Emits a growing text in pieces, up to the first stop string; the pieces joined are the completion's text.

    Held back are the beginning of a stop string, bytes that are not a character yet, and white space at the end, which
    some tokenizers remove before the next word.

    Args:
        decode: from the ids written so far to text.
        stop: the stop strings.
        emit: receives each piece.
        is_cancelled: checked after every token.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stop: Sequence[str], emit: Emit, is_cancelled: Callable[[], bool]
    ) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._emit = emit
        self._is_cancelled = is_cancelled
        self._emitted = ""

    def __call__(self, ids: list[int]) -> None:
        """Take the ids written so far. Raises :class:`AnswerStopped` once cancelled."""
        if self._is_cancelled():
            raise AnswerStopped
        self.grow(self._decode(ids))

    def grow(self, text: str) -> None:
        """Emit the new part of the text that no later token can change."""
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        self.finish(self._certain(text) if cut is None else text[:cut])

    def finish(self, text: str) -> None:
        """Emit what is new in the text; nothing where it does not continue the emitted one, which later tokens may mend."""
        if len(text) > len(self._emitted) and text.startswith(self._emitted):
            piece, self._emitted = text[len(self._emitted) :], text
            self._emit(piece)

    def _certain(self, text: str) -> str:
        text = text.rstrip(_HALF)
        longest = min(max(map(len, self._stop), default=0) - 1, len(text))
        begun = next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stop)), 0)
        return text[: len(text) - begun].rstrip()
