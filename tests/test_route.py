"""A task's route through the code: the files it enters in a round, in the order of first entry.

Listed are the rooms that do the work: training, attempts and inner_loop. What a run chooses (domain, engine, grader, reward,
callbacks) and what every room uses (core, storage, distributed, models) is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fakes import ToyDomain, ToyTasks

from seal_lightning import seal_trainer
from seal_lightning.core import AdapterSpec, OptimizerSpec, SamplingSpec
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

ROOT = Path(__file__).resolve().parents[1]

E_STEP = [
    "training/module.py",
    "training/policy.py",
    "training/loop.py",
    "attempts/runner.py",
    "training/hooks.py",
    "attempts/exam_runner.py",
    "attempts/drafts.py",
    "inner_loop/batched.py",
    "inner_loop/tokenizing.py",
    "inner_loop/memory.py",
    "inner_loop/side_by_side.py",
    "inner_loop/adapter_run.py",
    "inner_loop/schedule.py",
    "attempts/judging.py",
]
M_STEP = ["training/module.py", "training/policy.py", "training/m_step.py", "inner_loop/schedule.py"]


class Traced(SealModule):
    """Notes the project's files that a training step enters, in order of first entry."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.entered: dict[str, list[str]] = {"E": [], "M": []}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with files_entered(self.entered["E" if self.in_e_step else "M"]):
            return super().training_step(batch, batch_idx)


@contextmanager
def files_entered(found: list[str]) -> Iterator[None]:
    def note(frame: FrameType, event: str, arg: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(ROOT)) and "/tests/" not in path:
            name = str(Path(path).resolve().relative_to(ROOT)).removeprefix("seal_lightning/")
            if name not in found:
                found.append(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def on_route(entered: list[str]) -> list[str]:
    return [name for name in entered if name.startswith(("training/", "attempts/", "inner_loop/"))]


def test_route_of_a_task_is_as_documented(tiny_folder: Path, tmp_path: Path) -> None:
    module = Traced(
        domain=ToyDomain(adapter=AdapterSpec(rank=2, alpha=4), optimizer=OptimizerSpec(num_epochs=1)),
        pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
        sampling=SamplingSpec(max_new_tokens=4),
        policy_adapter=AdapterSpec(rank=2, alpha=4, target_modules="all-linear"),
        rounds=1,
        num_edits=2,
        num_repeats=1,
    )
    trainer = seal_trainer(tmp_path / "run", rounds=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(module, SealDataModule(train=ToyTasks(1)))
    assert on_route(module.entered["E"]) == E_STEP
    assert on_route(module.entered["M"]) == M_STEP
    assert len(E_STEP) <= 14
