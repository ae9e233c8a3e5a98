"""``--resume RUN``, ``--resume auto`` and ``--run RUN``: choose a run and its checkpoint."""

from __future__ import annotations

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.storage.checkpoint_io import local_path
from seal_lightning.storage.run_dir import RunDir

AUTO = "auto"


def expand_run_options(command: str, args: list[str]) -> tuple[str | None, list[str]]:
    """Replace a run directory on the command line by its configuration and newest checkpoint.

    Returns the run that a fit continues (``auto``: the one in --run_dir, if any; None: a new one), and the arguments for
    LightningCLI. Other arguments come after them and so override the run's configuration. Raises :class:`RunError` where
    there is no such run.
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
    run_dir.settings()  # checked before the parser reads it: it may come from anywhere
    expanded = ["--config", str(run_dir.config), "--run_dir", str(run_dir.path)]
    checkpoint = run_dir.latest_checkpoint()
    if checkpoint is not None and "--ckpt_path" not in rest:
        expanded += ["--ckpt_path", str(checkpoint)]
    return (args[at + 1] if command == "fit" else None), expanded + rest


def chosen_checkpoint(chosen: str | None, run: RunDir, resume: str | None) -> str | None:
    """Return the checkpoint to load; ``last`` is the run's newest complete one.

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
