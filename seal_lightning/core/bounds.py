"""What the records share: refusing what is out of bounds, and means of what was measured."""

from __future__ import annotations

from seal_lightning.core.errors import ConfigError, shown


def require(allowed: bool, field_name: str, value: object, what: str) -> None:
    """Raise :class:`ConfigError` unless ``allowed``."""
    if not allowed:
        raise ConfigError(f"{field_name}: {shown(value)} is not allowed; it must be {what}")


def mean(values: list[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None
