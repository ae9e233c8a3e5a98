"""Checks of a Lightning trainer before a run: rounds of E-step and M-step need some of its settings."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from seal_lightning.core.errors import ConfigError
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.training.hooks import seal_callbacks

USE_SEAL_TRAINER = "seal_lightning.seal_trainer(...) builds a trainer with everything that rounds need"


def check_trainer(trainer: Trainer, rounds: int) -> None:
    """Raise :class:`ConfigError`, naming the setting, for a trainer that cannot run what it was asked to run.

    Args:
        trainer: about to fit, validate, test or predict.
        rounds: ≥ 1, rounds of the module.
    """
    if not hasattr(trainer.datamodule, "set_buffer"):  # type: ignore[attr-defined]
        raise ConfigError(
            f"a SealDataModule is missing: call trainer.{trainer.state.fn}(module, datamodule=SealDataModule(...))"
        )
    if trainer.test_loop.inference_mode:  # an argument of Trainer that only its loops keep
        raise _refusal("inference_mode", True, False, "validation and tests train adapters")
    if trainer.state.fn == "fit":
        _check_fit(trainer, rounds)


def _check_fit(trainer: Trainer, rounds: int) -> None:
    every_epoch = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    if every_epoch != 1:
        raise _refusal("reload_dataloaders_every_n_epochs", every_epoch, 1, "E-steps and M-steps have other batches")
    if trainer.max_epochs != 2 * rounds:
        raise _refusal("max_epochs", trainer.max_epochs, 2 * rounds, f"{rounds} rounds are so many E-steps and M-steps")
    if trainer.max_steps != -1:
        raise _refusal("max_steps", trainer.max_steps, -1, "rounds end a run, not optimiser steps")
    if trainer.num_sanity_val_steps != 0:
        raise _refusal("num_sanity_val_steps", trainer.num_sanity_val_steps, 0, "validation follows an M-step")
    every = trainer.check_val_every_n_epoch
    if trainer.enable_validation and (every is None or every % 2 != 0):
        raise _refusal("check_val_every_n_epoch", every, "2 times a number of rounds", "validation follows an M-step")
    if not any(callback.fills_buffer for callback in seal_callbacks(trainer)):
        raise ConfigError(
            "trainer.callbacks: RestEmBuffer is missing, so M-steps would have no data; add it with a reward filter such as "
            f"BestOfK. {USE_SEAL_TRAINER}"
        )
    checkpoints = [type(c).__name__ for c in trainer.callbacks if isinstance(c, Checkpoint)]  # type: ignore[attr-defined]
    if checkpoints and not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
        raise ConfigError(
            f"trainer.plugins: AtomicCheckpointIO is missing, so no run could resume from what {checkpoints[0]} writes; add "
            f"it, or set enable_checkpointing=False. {USE_SEAL_TRAINER}"
        )


def _refusal(name: str, found: object, needed: object, reason: str) -> ConfigError:
    return ConfigError(
        f"trainer.{name}: {found} is not allowed; it must be {needed}, because {reason}. {USE_SEAL_TRAINER}"
    )
