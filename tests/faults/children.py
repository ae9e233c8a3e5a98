"""``seal`` in processes of its own, forked from a warm parent before any thread starts: a cold start takes six seconds."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).resolve().parents[1]
_PORTS = iter(random.sample(range(20_000, 30_000), 10_000))
_CONTEXT = multiprocessing.get_context("forkserver")


def _warm_parent() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS / "faults", TESTS, TESTS.parent)))
    _CONTEXT.set_forkserver_preload(["warm"])


_warm_parent()


class Child:
    """A ``seal`` command that runs on its own; what it prints goes to a file."""

    def __init__(self, args: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.process: BaseProcess = _CONTEXT.Process(target=_seal, args=(list(args), str(log), dict(environment or {})))
        self.process.start()

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit code; negative for a signal. Raises :class:`TimeoutError`, having killed the child."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"no end within {timeout_s} s:\n{self.printed()[-3000:]}")
        return self.process.exitcode

    def send(self, number: signal.Signals) -> None:
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")


def ranks(
    args: Sequence[str], folder: Path, num_ranks: int = 2, environments: Mapping[int, Mapping[str, str]] | None = None
) -> list[Child]:
    """The processes of a run as ``torchrun`` starts them, each printing to ``rank{n}.log``."""
    shared = {
        "TORCHELASTIC_RUN_ID": "faults",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "GROUP_RANK": "0",
    }
    own = environments or {}
    return [
        Child(
            args,
            folder / f"rank{rank}.log",
            {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), **own.get(rank, {})},
        )
        for rank in range(num_ranks)
    ]


def wait_until(happened: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.01)


def side_by_side(work: Callable[[Any], None], items: Iterable[Any], workers: int = 2) -> None:
    """``work`` on each item, some at a time: what is waited for is other processes. Raises the first error."""
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def end_all(children: Sequence[Child]) -> None:
    """Kill what is left, and what it started."""
    for child in children:
        if child.process.exitcode is None:
            for process in psutil.Process(child.process.pid).children(recursive=True):
                process.kill()
            child.send(signal.SIGKILL)
            child.process.join()


def _free_port() -> int:
    """Below those that the system gives to connections by itself, and none twice."""
    for port in _PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError("there is no free port")


def _seal(args: list[str], log: str, environment: dict[str, str]) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from seal_lightning.cli.main import entry_point

    rank_zero_only.rank = int(environment.get("RANK", "0"))  # read when lightning was imported, before the fork
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = ["seal", *args]
    entry_point()
