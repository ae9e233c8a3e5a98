"""``--resume RUN``, ``--resume auto`` and ``--run RUN``: which run a command goes on with, and from which checkpoint."""

from __future__ import annotations

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.storage.checkpoint_io import local_path
from seal_lightning.storage.run_dir import RunDir

AUTO = "auto"


def expand_run_options(command: str, args: list[str]) -> tuple[str | None, list[str]]:
    """A run directory on the command line as its configuration and newest checkpoint.

    Returns the run that a fit goes on with (``auto``: what is in --run_dir, if a run is; None: it starts one), and the
    arguments for LightningCLI. What else is on the command line comes after and so overrides the run's own
    configuration. Raises :class:`RunError` when there is no such run.
    """
    option = "--resume" if command == "fit" else "--run"
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith(f"{option}=") else [arg])]
    if option not in args:
        return None, args
    at = args.index(option)
    if at + 1 == len(args):
        raise RunError(f"{option} needs a run directory")
    rest = args[:at] + args[at + 2 :]
    if command == "fit" and args[at + 1] == AUTO:
        return AUTO, rest
    run_dir = RunDir.named(args[at + 1], option)
    if not run_dir.config.exists():
        raise RunError(f"{run_dir.path} is no run directory: it has no {run_dir.config.name}")
    run_dir.settings()  # looked through before the parser reads it: it may come from anywhere
    expanded = ["--config", str(run_dir.config), "--run_dir", str(run_dir.path)]
    checkpoint = run_dir.latest_checkpoint()
    if checkpoint is not None and "--ckpt_path" not in rest:
        expanded += ["--ckpt_path", str(checkpoint)]
    return (args[at + 1] if command == "fit" else None), expanded + rest


def chosen_checkpoint(chosen: str | None, run: RunDir, resume: str | None) -> str | None:
    """The checkpoint to load: ``last`` is the run's newest whole one.

    Raises :class:`RunError` where there is none, and for a URL; :class:`ConfigError` beside ``--resume auto``.
    """
    if chosen is None:
        return None
    if resume == AUTO:
        raise ConfigError(
            "--ckpt_path cannot stand beside --resume auto, which takes the run's newest checkpoint. Leave one of them out"
        )
    if chosen in ("best", "hpc"):
        raise RunError(f"--ckpt_path {chosen} is not offered: name a file, or `last` for the newest of {run.path}")
    if chosen == "last":
        newest = run.latest_checkpoint()
        if newest is None:
            raise RunError(f"--ckpt_path last: {run.checkpoints} has no checkpoint that is whole")
        return str(newest)
    return str(local_path(chosen))
