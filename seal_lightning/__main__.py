"""``python -m seal_lightning``."""

from seal_lightning.cli.main import entry_point

entry_point()
