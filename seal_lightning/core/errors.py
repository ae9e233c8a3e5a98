"""Errors a user can meet. Every message says what happened, where, the value, what is allowed and how to go on."""

from __future__ import annotations


class SealError(Exception):
    """The base of all errors this package raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(SealError):
    """A setting is out of bounds or does not fit another."""


class DataError(SealError):
    """A data set is missing, empty or has an invalid record; the message names file, record and field."""


class ModelError(SealError):
    """A model or tokenizer cannot be had or cannot do what is asked of it."""


class RunError(SealError):
    """A run directory cannot be written, read or resumed."""


class RankLost(SealError):
    """Another process of the run failed or gives no sign of life."""


class StopRequested(SealError):
    """The run was told to stop by a signal and ended in good order."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class MalformedEdit(SealError):
    """A self-edit that has no meaning as an adaptation plan. Counted by kind, never shown as a crash."""

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}" if detail else kind)


def shown(value: object, limit: int = 120) -> str:
    """A value for an error message: its repr with control characters escaped, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
