"""Two hosts on one machine: network namespaces joined by a cable (veth), each with an address and a host name of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


@dataclass
class Host:
    """A network namespace."""

    name: str
    address: str
    """IPv4, on the interface ``cable``."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        own_files: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command here; what it prints goes to a file. ``own_files`` mounts what only this host has."""
        log.parent.mkdir(parents=True, exist_ok=True)
        names = log.parent / f"hosts.{self.name}"  # torchrun asks for the addresses of its own name
        names.write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        own = f'hostname {self.name} && mount --bind {names} /etc/hosts && {own_files or "true"} && exec "$@"'
        named = ["unshare", "--uts", "--mount", "sh", "-c", own, "sh"]
        known = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS / "faults", TESTS, TESTS.parent))),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "GLOO_SOCKET_IFNAME": "cable",
            "HOME": str(log.parent),
        }
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *named, *command],
                env={**known, **(environment or {})},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def torchrun(self, options: Sequence[str], seal: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
        """``torchrun OPTIONS -m -- seal_lightning …`` here, with one process; without ``--`` it would take our ``--run``."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", f"--local-addr={self.address}"]
        return self.run([*command, *options, "-m", "--", "seal_lightning", *seal], log, environment)

    def processes(self) -> list[int]:
        """All that runs here."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        return [int(number) for number in found.stdout.split()]

    def die(self) -> None:
        """Kill all that runs here, as a machine that loses its power."""
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self.started:
            process.wait(10)

    def unplug(self) -> None:
        """Pull the cable: nothing answers any more, and nothing says so."""
        ip("-n", self.name, "link", "set", "cable", "down")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Made, and removed with all that runs there."""
    tag = f"{os.getpid() % 100_000}"
    pair = Host(f"seal-a-{tag}", "10.77.0.1"), Host(f"seal-b-{tag}", "10.77.0.2")
    try:
        for host in pair:
            ip("netns", "add", host.name)
            ip("-n", host.name, "link", "set", "lo", "up")
        ends = [["cable", "netns", host.name] for host in pair]
        ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for host in pair:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "cable", "up")
        yield pair
    finally:
        for host in pair:
            with suppress(subprocess.SubprocessError, OSError):
                host.die()
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def reason_against() -> str | None:
    """Why there can be no such hosts here; None when there can."""
    if os.geteuid() != 0:
        return "it takes root"
    missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    if missing:
        return f"there is no {missing[0]}"
    try:
        with two_hosts():
            return None
    except subprocess.CalledProcessError as error:
        return f"the kernel forbids it ({error.stderr.strip()})"


def ip(*arguments: str) -> None:
    """The tool ``ip``; raises :class:`subprocess.CalledProcessError`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def ended(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> list[int]:
    """The exit codes, when all have ended. Raises :class:`subprocess.TimeoutExpired`."""
    deadline = time.monotonic() + timeout_s
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
