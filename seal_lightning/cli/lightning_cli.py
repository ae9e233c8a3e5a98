"""``seal fit``, ``validate``, ``test`` and ``predict``: LightningCLI with the settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from seal_lightning.callbacks import RankAgreement, StartingPoint
from seal_lightning.cli.run_options import AUTO, chosen_checkpoint, expand_run_options
from seal_lightning.cli.trainer import (
    TRAINER_DEFAULTS,
    check_run_is_new,
    completed_callbacks,
    completed_plugins,
    epochs_of,
    keep_settings,
)
from seal_lightning.core.errors import ConfigError, RankLost, RunError, shown
from seal_lightning.distributed import interruption, launching
from seal_lightning.distributed.coordination import is_connection_lost, is_rendezvous_failure
from seal_lightning.models.out_of_memory import is_out_of_memory
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

_OTHER_SHARDING = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


class RunConfig(SaveConfigCallback):
    """Keeps a run's whole configuration as ``config.yaml`` of its directory."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration of a fit; other commands leave it alone."""
        if stage == "fit":
            text = self.parser.dump(self.config, skip_none=False)
            keep_settings(RunDir.of(trainer), yaml.safe_load(text), text)


def _check_strategy(strategy: Any) -> None:
    """Raise :class:`ConfigError` for a strategy that shards the model in another way than :class:`ShardedStrategy`."""
    name = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", type(strategy).__name__)
    if name.startswith(("fsdp", "deepspeed")) or name.rsplit(".", 1)[-1] in _OTHER_SHARDING:
        raise ConfigError(
            f"trainer.strategy: {shown(name)} is not allowed: it does not know what an E-step does with a sharded policy. "
            "Use `-c configs/trainer/fsdp.yaml` (seal_lightning.training.sharded_strategy.ShardedStrategy), or ddp where the "
            "model fits one device. Nothing was computed"
        )


class SealCLI(LightningCLI):
    """LightningCLI for :class:`SealModule` and :class:`SealDataModule`."""

    def __init__(self, *args: Any, resume: str | None = None, **kwargs: Any) -> None:
        self.resume = resume
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run directory, and derive from it and from the rounds what the trainer needs."""
        parser.add_argument("--run_dir", type=str, default="runs/seal", help="Where everything of this run is kept.")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("model.rounds", "trainer.max_epochs", compute_fn=epochs_of)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let a checkpoint's settings silently override the command line's."""

    def before_instantiate_classes(self) -> None:
        """Check the run directory and the seed before anything is loaded."""
        config = self.config[self.subcommand]
        run = RunDir.named(config.run_dir)
        config.ckpt_path = chosen_checkpoint(config.get("ckpt_path"), run, self.resume)
        if self.subcommand == "test":
            config.verbose = False  # ResultsTable prints the metrics with their errors
        if config.seed_everything is not False:
            raise ConfigError("seed_everything is not used: every seed of a run is made from model.seed; set that")
        if launch := launching.detected():
            launch.trainer_settings(config.trainer.devices, config.trainer.num_nodes)
        # The same on every rank: nothing of a run is written before all ranks have met, which is later.
        named = None if config.ckpt_path is None else Path(config.ckpt_path).resolve()
        going_on = self.resume is not None or (named is not None and run.checkpoints.resolve() in named.parents)
        if self.subcommand == "fit" and not going_on:
            check_run_is_new(run, f"`seal fit --resume {run.path}` (or `--resume auto`)")
        if getattr(rank_zero_only, "rank", 0) == 0:  # SharedRunDir checks the others
            run.check_writable()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer with the default callbacks and TensorBoard, except where the configuration names its own."""
        config = self.config[self.subcommand]
        _check_strategy(config.trainer.strategy)
        named = {callback.class_path.rsplit(".", 1)[-1] for callback in config.trainer.callbacks or ()}
        settings = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        start = [RankAgreement(settings), StartingPoint(config.get("ckpt_path"), newest=self.resume == AUTO)]
        progress_bar = config.trainer.enable_progress_bar is not False
        self.trainer_defaults["callbacks"] = completed_callbacks(sorted(named), progress_bar, start)
        if config.trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(config.run_dir, name="tensorboard", version="")
        plugins = self._get(self.config_init, "trainer").plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        kwargs["plugins"] = completed_plugins(plugins)
        if launch := launching.detected():  # not stored in config.yaml: a resume may have fewer hosts
            kwargs |= launch.trainer_settings(config.trainer.devices, config.trainer.num_nodes)
        return super().instantiate_trainer(**kwargs)


def run(command: str, args: Sequence[str]) -> SealCLI:
    """Parse and run ``fit``, ``validate``, ``test`` or ``predict``."""
    resume, expanded = expand_run_options(command, list(args))
    try:
        return _cli(command, expanded, resume)
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:
        raise _explained(error) from error
    finally:
        interruption.finish()


def _explained(error: RuntimeError) -> Exception:
    """Return out-of-memory and lost-connection errors as errors of this package, any other unchanged."""
    if is_out_of_memory(error):
        return RunError(
            f"out of memory ({str(error).strip().splitlines()[0][:200]}). Attempts and checkpoints are kept. Lower "
            "model.engine.init_args.max_batch_size, data.tasks_per_batch or model.sampling.max_new_tokens, and go on with "
            "`seal fit --resume RUN`"
        )
    if is_rendezvous_failure(error):
        return launching.rendezvous_error(error)
    if is_connection_lost(error):
        explained = RankLost(
            f"the connection to another rank is lost ({str(error).strip().splitlines()[-1][:200]}). Attempts and checkpoints "
            "are kept. Go on with `seal fit --resume RUN`"
        )
        for note in getattr(error, "__notes__", ()):
            explained.add_note(note)
        return explained
    return error


def _cli(command: str, args: list[str], resume: str | None) -> SealCLI:
    return SealCLI(
        SealModule,
        SealDataModule,
        save_config_callback=RunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults=dict(TRAINER_DEFAULTS),
        seed_everything_default=False,
        auto_configure_optimizers=False,
        parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
        args=[command, *args],
        resume=resume,
    )
