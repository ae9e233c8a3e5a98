"""Callbacks that YAML names (``injected.Faults``): they hurt the process where the environment says.

``SEAL_TEST_FAULT`` is ``PHASE:SEED``: a SIGKILL at a random instant of an E-step (``e_step``) or M-step (``m_step``), or at
a random system call of a checkpoint's writing (``checkpoint``); or an exception in a random batch (``raise``). The seed
makes the instant. ``slow`` makes attempts take longer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from seal_lightning.core import Attempt
from seal_lightning.storage import atomic_files
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.hooks import SealCallback

E_STEP_S, M_STEP_S = 0.12, 0.12
"""About as long as the tiny model's phases take, so that a random instant falls into them."""
WRITE_CALLS = 24
"""About as many calls as a checkpoint with its manifest takes when writes are cut into pieces."""


def acknowledged(run_dir: Path) -> list[str]:
    """The attempts that a run was told are stored, in order; written outside the run directory."""
    path = run_dir.with_name(f"{run_dir.name}.acknowledged")
    return path.read_text().split() if path.exists() else []


class Faults(SealCallback):
    """Notes what is acknowledged, and kills the process where it is told to."""

    def __init__(self) -> None:
        phase, _, seed = os.environ.get("SEAL_TEST_FAULT", "").partition(":")
        self.phase = phase
        self.seed = seed
        self.random = random.Random(seed)
        self._current: object = None

    def on_attempt(self, trainer: Trainer, pl_module: LightningModule, attempt: Attempt) -> None:
        path = RunDir.of(trainer).path
        with path.with_name(f"{path.name}.acknowledged").open("a") as file:
            file.write(f"{attempt.attempt_id}\n")
        if self.phase == "slow":
            time.sleep(0.2)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.phase == "checkpoint":
            _kill_while_saving(self.random)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        epoch, number = (self.random.randrange(4), self.random.randrange(3)) if self.phase == "raise" else (-1, -1)
        self.random.seed(self.seed)  # the same place every time it is asked
        if (trainer.current_epoch, batch_idx) == (epoch, number):
            raise ValueError("planted by the test")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        in_e_step = trainer.current_epoch % 2 == 0
        self._current = object()
        if (self.phase, in_e_step) in (("e_step", True), ("m_step", False)):
            delay = self.random.uniform(0, E_STEP_S if in_e_step else M_STEP_S)
            threading.Thread(target=self._kill_after, args=(delay, self._current), daemon=True).start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._current = None

    def _kill_after(self, delay: float, epoch: object) -> None:
        time.sleep(delay)
        if self._current is epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def _kill_while_saving(chance: random.Random) -> None:
    """At a random call of one of the run's checkpoints; writes come in pieces of a kilobyte, so some are cut."""
    which, at = chance.randrange(6), chance.randrange(WRITE_CALLS)
    save = AtomicCheckpointIO.save_checkpoint
    saved = 0

    def saving(self: AtomicCheckpointIO, *args: Any, **kwargs: Any) -> None:
        nonlocal saved
        atomic_files.os = _KillingOs(at) if saved == which else os  # type: ignore[assignment]
        saved += 1
        save(self, *args, **kwargs)
        atomic_files.os = os

    AtomicCheckpointIO.save_checkpoint = saving  # type: ignore[method-assign]


class _KillingOs:
    """The module ``os``, killing the process at its n-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "write":
                return os.write(args[0], args[1][:16384])
            return found(*args, **kwargs)

        return call
