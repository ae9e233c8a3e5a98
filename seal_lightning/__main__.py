"""``python -m seal_lightning``."""

from seal_lightning.cli import entry_point

entry_point()
