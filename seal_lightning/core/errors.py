"""Errors that a user can meet. A message says what is wrong, where, and how to fix it."""

from __future__ import annotations


class SealError(Exception):
    """Base of all errors that this package raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(SealError):
    """A setting is out of bounds or does not fit another."""


class DataError(SealError):
    """A data set is missing, empty or has an invalid record; the message names file, record and field."""


class ModelError(SealError):
    """A model or tokenizer cannot be loaded, or lacks a required ability."""


class RunError(SealError):
    """A run directory cannot be written, read or resumed."""


class RankLost(SealError):
    """Another process of the run failed or stopped responding."""


class StopRequested(SealError):
    """A signal stopped the run, which saved its state and ended in good order."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class MalformedEdit(SealError):
    """A self-edit that means no adaptation plan. Counted by kind, never shown as a crash."""

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}" if detail else kind)


def shown(value: object, limit: int = 120) -> str:
    """Return a value's repr for an error message: control characters escaped, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def require(allowed: bool, field_name: str, value: object, requirement: str) -> None:
    """Raise :class:`ConfigError` unless ``allowed``: "``field_name``: ``value`` is not allowed; it must be …"."""
    if not allowed:
        raise ConfigError(f"{field_name}: {shown(value)} is not allowed; it must be {requirement}")
