"""A module and its data without a trainer: of a run, or of configuration files as ``seal fit -c a -c b`` reads them."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

MAX_REASON = 2_000
"""Characters shown of what the parser of a configuration says."""


def load_run(run: RunDir) -> tuple[SealModule, SealDataModule]:
    """A run's module and data as its ``config.yaml`` says, without a trainer. Raises :class:`RunError`."""
    settings = run.settings()
    if missing := {"model", "data"} - settings.keys():
        raise RunError(f"{run.config} is no configuration of a run: it has no {' and no '.join(sorted(missing))}")
    module, data = load_settings(settings, f"{run.config} is no configuration of a run")
    module.run_dir = run.path
    return module, data


def load_settings(settings: dict[str, Any], refusal: str) -> tuple[SealModule, SealDataModule]:
    """Module and data of a whole configuration. Raises :class:`RunError` that starts with ``refusal``."""
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
    """What ``seal fit -c a -c b …`` would run with, as plain values: later files win. A YAML text is taken for a file too.

    Raises :class:`ConfigError` where ``seal fit`` would refuse it.
    """
    from seal_lightning.cli.lightning_cli import SealCLI
    from seal_lightning.cli.trainer import TRAINER_DEFAULTS

    class Parsed(SealCLI):
        """Stops where ``seal fit`` would make things of what it has read."""

        def before_instantiate_classes(self) -> None:
            """No run directory is touched."""

        def instantiate_classes(self) -> None:
            """Nothing is made."""

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
    """The parser repeats values, of any length and with anything that could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(error)[:MAX_REASON])
