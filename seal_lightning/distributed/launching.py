"""Who started this process: torchrun, SLURM, or nobody. How many hosts and processes there are is what a launcher says.

An elastic restart may have fewer hosts than the start before it, so no configuration can know.
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
    """What a launcher says of the run that this process belongs to."""

    launcher: str
    """``torchrun`` or ``SLURM``."""
    num_nodes: int
    """≥ 1."""
    num_processes: int
    """≥ 1, on each host."""

    def trainer_settings(self, devices: Any, num_nodes: int) -> dict[str, int]:
        """What the trainer needs so that it starts as many processes as there are.

        Args:
            devices: the configuration's ``trainer.devices``; ``auto`` and -1 leave it to the launcher.
            num_nodes: its ``trainer.num_nodes``; 1, the default, leaves it to the launcher.

        Raises :class:`ConfigError` where the configuration says another number.
        """
        if num_nodes not in (1, self.num_nodes):
            raise self._conflict("num_nodes", num_nodes, f"{self.num_nodes} hosts")
        wanted = _num_devices(devices)
        if wanted not in (None, self.num_processes):
            raise self._conflict("devices", devices, f"{self.num_processes} processes on each host")
        return {"num_nodes": self.num_nodes} | ({"devices": self.num_processes} if wanted is None else {})

    def _conflict(self, name: str, value: Any, started: str) -> ConfigError:
        left = {"num_nodes": "1", "devices": "auto"}[name]
        return ConfigError(
            f"trainer.{name}: {shown(value)} does not fit: {self.launcher} started {started}. Nothing was started. Leave it "
            f"to the launcher (--trainer.{name} {left}), or have as many started ({_option(self.launcher, name)})"
        )


def detected(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The launch this process belongs to, None without a launcher. Raises :class:`ConfigError` where it is uneven."""
    if "TORCHELASTIC_RUN_ID" in environment:  # first, as in Lightning: torchrun may run within a SLURM job
        world, local = _number(environment, "WORLD_SIZE"), _number(environment, "LOCAL_WORLD_SIZE")
        nodes = _number(environment, "GROUP_WORLD_SIZE", -(-world // local))
        return _even("torchrun", world, nodes, local)
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world, nodes = _number(environment, "SLURM_NTASKS"), _number(environment, "SLURM_NNODES", 1)
        if world > 1 and "SLURM_STEP_ID" not in environment:
            raise ConfigError(
                f"SLURM has {world} tasks for this job, but `seal` was not started by srun: it would wait for the others for "
                "ever. Nothing was started. Put srun before it (configs/trainer/slurm.sbatch does)"
            )
        if world > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
            raise ConfigError(
                f"SLURM started {world} tasks, and does not say how many on each host. Nothing was started. Give "
                "--ntasks-per-node instead of --ntasks, to sbatch or srun"
            )
        return _even("SLURM", world, nodes, _number(environment, "SLURM_NTASKS_PER_NODE", 1))
    return None


def cluster_plugins(plugins: Sequence[Any]) -> list[Any]:
    """What Lightning needs beside the configuration's plugins: SLURM without its own way to requeue.

    That one writes a checkpoint in the signal's handler, in collectives which other ranks may not be in; a run of ours
    ends in good order by SIGTERM, and the job's script requeues it.
    """
    if any(hasattr(plugin, "creates_processes_externally") for plugin in plugins):
        return []
    launch = detected()
    return [SLURMEnvironment(auto_requeue=False)] if launch is not None and launch.launcher == "SLURM" else []


def meeting_failed(error: RuntimeError, environment: Mapping[str, str] = os.environ) -> RunError:
    """Why the ranks did not find each other, before anything was computed."""
    said = " ".join(str(error).split())
    address, port = environment.get("MASTER_ADDR", "127.0.0.1"), environment.get("MASTER_PORT", "?")
    place, rank = f"{address}:{port}", environment.get("RANK", environment.get("SLURM_PROCID", "?"))
    if "EADDRINUSE" in said or "already in use" in said:
        problem, remedy = (
            f"the port {port} of {address} is in use by another process, so rank {rank} cannot have the others meet there",
            "Name another with MASTER_PORT (torchrun: --master-port or --rdzv-endpoint), or end what uses it",
        )
    elif "waiting for clients" in said:
        problem, remedy = (
            f"rank {rank} waited at {place}, and not all other ranks came ({shown(said, 160)})",
            "Start every rank with the same MASTER_ADDR and MASTER_PORT, and look at what the missing ones say",
        )
    elif "gloo" in said.lower():
        problem, remedy = (
            f"rank {rank} cannot exchange data with the others ({shown(said, 200)})",
            "Name the network interface that the hosts share: GLOO_SOCKET_IFNAME (GPUs: NCCL_SOCKET_IFNAME)",
        )
    else:
        problem, remedy = (
            f"rank {rank} cannot reach the first rank at {place} ({shown(said, 200)})",
            "See that MASTER_ADDR is an address of its host that this one can reach, that no firewall is between them, and "
            "that the first rank runs; the strategy's timeout says how long is waited",
        )
    return RunError(f"{problem}. Nothing was started, and what is stored is kept. {remedy}")


def _even(launcher: str, world: int, nodes: int, local: int) -> Launch:
    if world != nodes * local:
        raise ConfigError(
            f"{launcher} started {world} processes on {nodes} hosts, {local} of them on this one: every host must have "
            f"equally many. Nothing was started. Give every host the same number ({_option(launcher, 'devices')})"
        )
    return Launch(launcher=launcher, num_nodes=nodes, num_processes=local)


def _option(launcher: str, name: str) -> str:
    return {
        ("torchrun", "num_nodes"): "torchrun --nnodes",
        ("torchrun", "devices"): "torchrun --nproc-per-node",
        ("SLURM", "num_nodes"): "sbatch --nodes",
        ("SLURM", "devices"): "sbatch --ntasks-per-node",
    }[launcher, name]


def _num_devices(devices: Any) -> int | None:
    """How many devices a host has by the configuration; None where it leaves that open."""
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if isinstance(devices, str | int) and str(devices).lstrip("-").isdigit():
        return int(devices) if int(devices) >= 0 else None
    return len(devices) if isinstance(devices, list | tuple) else None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not str(text).isdigit() or int(text) < 1:
        raise ConfigError(
            f"the environment's {name}: {shown(text)} is not allowed; a launcher sets it to a number from 1"
        )
    return int(text)
