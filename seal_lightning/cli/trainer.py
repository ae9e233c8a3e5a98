"""A Lightning trainer with everything that rounds of E-step and M-step need, for Python and for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from seal_lightning.callbacks import (
    AttemptJournal,
    BestOfK,
    ChoiceProbabilities,
    ChoiceShares,
    FunctionFilter,
    GracefulStop,
    JudgeCosts,
    PhaseCheckpoint,
    PolicyExport,
    RankAgreement,
    RankReport,
    RestEmBuffer,
    ResultsTable,
    RewardFilter,
    RoundReport,
    SealProgressBar,
    SelfEditFile,
    SharedRunDir,
    StartingPoint,
)
from seal_lightning.cli.python_config import run_settings
from seal_lightning.core import Candidate
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.distributed import launching
from seal_lightning.storage.atomic_files import write_bytes
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.run_dir import RunDir

TRAINER_DEFAULTS: dict[str, Any] = {
    "reload_dataloaders_every_n_epochs": 1,
    "check_val_every_n_epoch": 2,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "inference_mode": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}
"""What E-steps and M-steps as epochs need: a loader for each phase, validation after each M-step, gradients in tests."""


def default_callbacks() -> list[Callback]:
    """Return what every run has besides its reward filter; a callback given by the user replaces the one of its class."""
    return [
        GracefulStop(),
        SharedRunDir(),
        AttemptJournal(),
        RestEmBuffer(),
        RankReport(),
        RoundReport(),
        JudgeCosts(),
        ChoiceShares(),
        ChoiceProbabilities(),
        PolicyExport(),
        ResultsTable(),
        SelfEditFile(),
        SealProgressBar(),
        PhaseCheckpoint(),
    ]


def completed_callbacks(given: Sequence[str], progress_bar: bool, start: Sequence[Callback]) -> list[Callback]:
    """Return the default callbacks and ``start``, less those whose class names are among ``given``.

    The progress bar is left to the user who names one or switches it off.
    """
    progress_bar = progress_bar and not any(name.endswith("ProgressBar") for name in given)
    return [
        callback
        for callback in [*default_callbacks(), *start]
        if type(callback).__name__ not in given and (progress_bar or not isinstance(callback, SealProgressBar))
    ]


def completed_plugins(plugins: Sequence[Any]) -> list[Any]:
    """Return the plugins with the checkpoint files' and, under a cluster's launcher, its environment.

    Raises :class:`ConfigError` for a checkpoint plugin that writes no manifests.
    """
    others = [p for p in plugins if isinstance(p, CheckpointIO) and not isinstance(p, AtomicCheckpointIO)]
    if others:
        raise ConfigError(
            f"trainer.plugins: {type(others[0]).__name__} is not allowed: it would write checkpoints without manifests, "
            "which no resume finds. Leave it out, or subclass seal_lightning.storage.checkpoint_io.AtomicCheckpointIO"
        )
    files = [] if any(isinstance(plugin, AtomicCheckpointIO) for plugin in plugins) else [AtomicCheckpointIO()]
    return [*plugins, *files, *launching.cluster_plugins(list(plugins))]


def epochs_of(rounds: int) -> int:
    """Return two epochs per round: an E-step and an M-step."""
    return 2 * rounds


def check_run_is_new(run: RunDir, resume: str) -> None:
    """Raise :class:`RunError` where the directory holds a run; ``resume`` says how to continue it."""
    if run.holds_a_run:
        raise RunError(
            f"the run directory {run.path} holds a run already; nothing in it was touched. Continue it with {resume}, "
            "or name another directory"
        )


def keep_settings(run: RunDir, settings: Mapping[str, Any], text: str | None = None) -> None:
    """Write ``config.yaml``, or ``config-2.yaml`` and so on where a resumed run has other settings than before.

    Args:
        settings: the configuration as plain values.
        text: the same as YAML, where it is at hand.
    """
    run.check_writable()
    content = (text or yaml.safe_dump(settings, sort_keys=False)).encode()
    if not run.holds_a_run:
        write_bytes(run.path / "config.yaml", content)
    elif _comparable(settings) != _comparable(run.settings()):
        write_bytes(run.next_config, content)


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that differ between the starts of one run."""
    return {key: value for key, value in settings.items() if key not in ("ckpt_path", "weights_only", "run_dir")}


class PythonRun(Callback):
    """Keeps the configuration of a run that was started from Python.

    Args:
        trainer_settings: the trainer's arguments, as the user gave them.
        resume: whether the directory may hold a run already.
    """

    def __init__(self, trainer_settings: Mapping[str, Any], resume: bool) -> None:
        self.trainer_settings = trainer_settings
        self.resume = resume

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` for a fit. Raises :class:`RunError` where the directory holds another run."""
        run = RunDir.of(trainer)
        if stage != "fit":
            return
        if not self.resume:
            check_run_is_new(run, f"seal_trainer({str(run.path)!r}, resume=True)")
        data = trainer.datamodule  # type: ignore[attr-defined]
        settings = run_settings(run.path, self.trainer_settings, pl_module, data)
        if trainer.is_global_zero:
            keep_settings(run, settings)


def seal_trainer(
    run_dir: str | Path,
    *,
    rounds: int = 2,
    reward_filter: RewardFilter | Callable[[list[Candidate]], list[Candidate]] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    plugins: Sequence[Any] = (),
    **trainer_kwargs: Any,
) -> Trainer:
    """Return a ``lightning.Trainer`` with everything that rounds of E-step and M-step need.

    Args:
        run_dir: where the run keeps its configuration, attempts, checkpoints and results.
        rounds: ≥ 1, E-steps and M-steps; must equal ``SealModule.rounds``.
        reward_filter: picks the edits that the M-step imitates, :class:`BestOfK` with k = 1 by default. A function gets
            the eligible candidates of all tasks, best first, and returns those to keep.
        resume: continue the run in ``run_dir`` from its newest checkpoint, if it holds one.
        callbacks: further callbacks; one of a default callback's class replaces it.
        plugins: further Lightning plugins.
        trainer_kwargs: any other argument of ``lightning.Trainer``, such as ``accelerator``, ``devices`` or ``strategy``.

    Raises:
        ConfigError: for an argument that the loop sets itself.
        RunError: where ``run_dir`` cannot be written.

    Example:
        >>> from seal_lightning import seal_trainer
        >>> trainer = seal_trainer("runs/example", rounds=1, accelerator="cpu", logger=False)
        >>> trainer.max_epochs
        2
    """
    run = RunDir.named(run_dir)
    if reserved := sorted(trainer_kwargs.keys() & {"max_epochs", "default_root_dir", *_FIXED}):
        raise ConfigError(f"seal_trainer: {reserved[0]} is set by the loop; leave it out (rounds sets the epochs)")
    given = [_as_filter(reward_filter), *callbacks]
    named = [type(callback).__name__ for callback in given]
    settings = {**TRAINER_DEFAULTS, **trainer_kwargs, "callbacks": given}
    start = [RankAgreement(), *([StartingPoint(newest=True)] if resume else []), PythonRun(settings, resume)]
    ours = completed_callbacks(named, trainer_kwargs.get("enable_progress_bar") is not False, start)
    if trainer_kwargs.get("logger") in (None, True):
        trainer_kwargs["logger"] = TensorBoardLogger(str(run.path), name="tensorboard", version="")
    return Trainer(
        **{**TRAINER_DEFAULTS, **trainer_kwargs},
        max_epochs=epochs_of(rounds),
        default_root_dir=str(run.path),
        callbacks=[*given, *ours],
        plugins=completed_plugins(plugins),
    )


_FIXED = ("reload_dataloaders_every_n_epochs", "num_sanity_val_steps", "use_distributed_sampler", "inference_mode")


def _as_filter(chosen: RewardFilter | Callable[[list[Candidate]], list[Candidate]] | None) -> RewardFilter:
    if chosen is None:
        return BestOfK()
    return chosen if isinstance(chosen, RewardFilter) else FunctionFilter(chosen)
