"""A task's way through the code: the files it enters in a round, from the data module to the M-step.

The list below is the one in docs/architecture.md. Rooms below the route (core, distributed, models, and the domain and
engine of a run) are not listed: every room uses them.
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

E_STEP: list[str] = []
M_STEP: list[str] = []


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


def main_route(entered: list[str]) -> list[str]:
    below = ("core/", "distributed/", "models/", "generation/")
    return [name for name in entered if not name.startswith(below)]


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
    print(module.entered)
    assert main_route(module.entered["E"]) == E_STEP
    assert main_route(module.entered["M"]) == M_STEP
