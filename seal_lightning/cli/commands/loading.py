"""Modules and data without a trainer, from a run or from configuration files, and other parts that commands share."""

from __future__ import annotations

from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.progress import Progress

from seal_lightning.core import Attempt
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.reporting.text import escape_invisible
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

MAX_REASON = 2_000
"""Characters shown of a message of the configuration's parser, which repeats values of any length."""


def load_run(run: RunDir) -> tuple[SealModule, SealDataModule]:
    """Load a run's module and data as its ``config.yaml`` says. Raises :class:`RunError`."""
    settings = run.settings()
    if missing := {"model", "data"} - settings.keys():
        raise RunError(f"{run.config} is not a run configuration: missing {', '.join(sorted(missing))}")
    module, data = load_settings(settings, f"{run.config} is not a run configuration")
    module.run_dir = run.path
    return module, data


def load_settings(settings: dict[str, Any], refusal: str) -> tuple[SealModule, SealDataModule]:
    """Load module and data of a whole configuration. Raises :class:`RunError` that starts with ``refusal``."""
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(SealModule, "model")
    parser.add_lightning_class_args(SealDataModule, "data")
    try:
        parsed = parser.parse_object({key: settings[key] for key in ("model", "data")})
        parts = parser.instantiate_classes(parsed)
    except (ArgumentError, TypeError, ValueError, ArithmeticError) as error:
        raise RunError(f"{refusal}: {_reason(error)}") from error
    return parts["model"], parts["data"]


def merged_settings(files: Sequence[str | Path]) -> dict[str, Any]:
    """Return the configuration of ``seal fit -c a -c b …`` as plain values: later files win. A YAML text may replace a file.

    Raises :class:`ConfigError` where ``seal fit`` would refuse it.
    """
    from seal_lightning.cli.lightning_cli import SealCLI
    from seal_lightning.cli.trainer import TRAINER_DEFAULTS

    class Parsed(SealCLI):
        """Parses, and stops before anything is instantiated."""

        def before_instantiate_classes(self) -> None:
            """Leave the run directory alone."""

        def instantiate_classes(self) -> None:
            """Instantiate nothing."""

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    try:
        cli = Parsed(
            SealModule,
            SealDataModule,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=False,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=["fit", *(part for file in files for part in ("-c", str(file)))],
        )
        text = cli.parser.dump(cli.config, skip_none=False)
    except (ArgumentError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"-c {' -c '.join(map(str, files))}: {_reason(error)}") from error
    settings: dict[str, Any] = yaml.safe_load(text)["fit"]
    return settings


def _reason(error: Exception) -> str:
    return escape_invisible(str(error)[:MAX_REASON], keep="\n")


def positive(text: str) -> int:
    """Parse an option's integer ≥ 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not allowed; it must be an integer of at least 1")
    return int(text)


@contextmanager
def attempt_progress(description: str, total: int) -> Iterator[Callable[[Attempt], None]]:
    """Show a progress bar over ``total`` attempts; yields the function to call with each."""
    with Progress() as progress:
        bar = progress.add_task(description, total=total)
        yield lambda attempt: progress.advance(bar)
