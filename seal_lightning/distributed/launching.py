"""Launch of a run: numbers of hosts and processes as torchrun or SLURM gives them, and errors of the rendezvous.

An elastic restart may have fewer hosts than the start before it, so no configuration can know these numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from seal_lightning.core.errors import ConfigError, RunError, shown


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The launcher's numbers for the run that this process belongs to."""

    launcher: str
    """``torchrun`` or ``SLURM``."""
    num_nodes: int
    """≥ 1."""
    num_processes: int
    """≥ 1, on each host."""

    def trainer_settings(self, devices: Any, num_nodes: int) -> dict[str, int]:
        """Return the trainer's settings that match the launch.

        Args:
            devices: the configuration's ``trainer.devices``; ``auto`` and -1 leave it to the launcher.
            num_nodes: its ``trainer.num_nodes``; 1, the default, leaves it to the launcher.

        Raises :class:`ConfigError` where the configuration has another number.
        """
        wanted = (self.num_nodes if num_nodes == 1 else num_nodes, _num_devices(devices) or self.num_processes)
        if wanted != (self.num_nodes, self.num_processes):
            raise ConfigError(
                f"trainer.num_nodes {num_nodes} and trainer.devices {shown(devices)} do not match: {self.launcher} started "
                f"{self.num_nodes} hosts with {self.num_processes} processes each. Leave both to the launcher (1 and auto)"
            )
        return {"num_nodes": self.num_nodes} | ({} if _num_devices(devices) else {"devices": self.num_processes})


def detected(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return the launch of this process, None without a launcher. Raises :class:`ConfigError` where hosts are uneven."""
    if "TORCHELASTIC_RUN_ID" in environment:  # first, as in Lightning: torchrun may run within a SLURM job
        world, local = _number(environment, "WORLD_SIZE"), _number(environment, "LOCAL_WORLD_SIZE")
        nodes = _number(environment, "GROUP_WORLD_SIZE", -(-world // local))
        return _even("torchrun", world, nodes, local)
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world, nodes = _number(environment, "SLURM_NTASKS"), _number(environment, "SLURM_NNODES", 1)
        if world > 1 and "SLURM_STEP_ID" not in environment:
            raise ConfigError(
                f"SLURM has {world} tasks for this job, but `seal` was not started by srun and would wait for the other "
                "tasks for ever. Put srun before it (configs/trainer/slurm.sbatch does)"
            )
        if world > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
            raise ConfigError(
                f"SLURM started {world} tasks, an unknown number on each host. Use --ntasks-per-node instead of --ntasks"
            )
        return _even("SLURM", world, nodes, _number(environment, "SLURM_NTASKS_PER_NODE", 1))
    return None


def cluster_plugins(plugins: Sequence[Any]) -> list[Any]:
    """Return a SLURM environment without Lightning's requeueing, where SLURM started the run.

    Lightning's writes a checkpoint in the signal's handler, in collectives that other ranks may not be in; here SIGTERM
    ends a run in good order, and the job's script requeues it.
    """
    if any(hasattr(plugin, "creates_processes_externally") for plugin in plugins):
        return []
    launch = detected()
    return [SLURMEnvironment(auto_requeue=False)] if launch is not None and launch.launcher == "SLURM" else []


def rendezvous_error(error: RuntimeError, environment: Mapping[str, str] = os.environ) -> RunError:
    """Return the error of ranks that did not find each other, before anything was computed."""
    address, port = environment.get("MASTER_ADDR", "127.0.0.1"), environment.get("MASTER_PORT", "?")
    rank = environment.get("RANK", environment.get("SLURM_PROCID", "?"))
    return RunError(
        f"rank {rank} cannot meet the other ranks at {address}:{port} ({shown(' '.join(str(error).split()), 200)}). Check "
        "that every rank was started with the same MASTER_ADDR and MASTER_PORT, that the port is free and reachable, and "
        "that GLOO_SOCKET_IFNAME (GPUs: NCCL_SOCKET_IFNAME) names the network interface that the hosts share"
    )


def _even(launcher: str, world: int, nodes: int, local: int) -> Launch:
    if world != nodes * local:
        raise ConfigError(
            f"{launcher} started {world} processes on {nodes} hosts, {local} of them on this one. Start the same number "
            "on every host (torchrun --nproc-per-node, sbatch --ntasks-per-node)"
        )
    return Launch(launcher=launcher, num_nodes=nodes, num_processes=local)


def _num_devices(devices: Any) -> int | None:
    """Return the configuration's number of devices per host; None where it leaves that open."""
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if isinstance(devices, str | int) and str(devices).lstrip("-").isdigit():
        return int(devices) if int(devices) >= 0 else None
    return len(devices) if isinstance(devices, list | tuple) else None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not str(text).isdigit() or int(text) < 1:
        raise ConfigError(f"the environment's {name}: {shown(text)} is not allowed; the launcher sets it to 1 or more")
    return int(text)
