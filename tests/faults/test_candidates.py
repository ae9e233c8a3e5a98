"""Candidates fail alone: every kind of failure in one round, counted and shown, and the rest goes on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from fakes import ToyDomain, ToyTasks, weights_hash
from lightning.pytorch import Trainer

from seal_lightning.attempts import AttemptRunner
from seal_lightning.attempts.exam_runner import grade_answers
from seal_lightning.callbacks.round_report import round_metrics, round_summary
from seal_lightning.core import (
    AdapterSpec,
    AnsweredQuestion,
    Attempt,
    AttemptStatus,
    OptimizerSpec,
    SamplingSpec,
    ScoreRequest,
    SelfEdit,
    Trial,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.errors import RunError
from seal_lightning.generation import TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop, adapter_run
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.selection import group_candidates
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.training.module import SealModule


class FaultyDomain(ToyDomain):
    """What an edit is called decides how it fails."""

    def plan(self, task, edit):
        plan = super().plan(task, replace(edit, text="" if edit.text == "malformed" else f"{edit.text}\nis known"))
        rate = {"infinite": 1e38, "slow": 1e-9}.get(edit.text, 0.02)
        return replace(plan, optimizer=replace(plan.optimizer, learning_rate=rate, num_epochs=2))


class StingyEngine(TransformersEngine):
    """Runs out of memory on any exam of the adapter of one edit."""

    hungry: object = None

    def score(self, requests: list[ScoreRequest]):
        if any(request.adapter is self.hungry for request in requests if request.adapter is not None):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().score(requests)


@pytest.fixture
def module(tiny_folder: Path) -> SealModule:
    module = SealModule(
        domain=FaultyDomain(adapter=AdapterSpec(rank=4, alpha=8), optimizer=OptimizerSpec()),
        pretrained=Pretrained(source=str(tiny_folder), dtype="float32"),
        engine=StingyEngine(),
        grader=LocalRules(),
        sampling=SamplingSpec(max_new_tokens=5),
    )
    module.configure_model()
    return module


def trials(runner: AttemptRunner, *texts: str) -> list[Trial]:
    task = ToyTasks(1).load()[0]
    edits = [SelfEdit(task_id=task.task_id, edit_index=i, text=text) for i, text in enumerate(texts)]
    return [runner.trial(task, edit, 0, 0) for edit in edits]


def test_attempt_failures_are_isolated_and_counted(module: SealModule, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = module.runner
    texts = ["good", "malformed", "infinite", "hungry", "slow", "nan", "over-long " + "stone " * 400]
    fresh = BatchedInnerLoop.adapt

    def poisoned(self: BatchedInnerLoop, plans, seeds):
        outcomes = list(fresh(self, plans, seeds))
        module.engine.hungry = outcomes[2].adapter  # malformed has no plan
        return outcomes

    step = adapter_run.AdapterRun.clip

    def clip(self: adapter_run.AdapterRun) -> torch.Tensor:
        if any("nan" in segment.text for sequence in self.plan.sequences for segment in sequence.segments):
            return step(self) * float("nan")
        return step(self)

    before = weights_hash(module.loaded_policy.model)
    with monkeypatch.context() as faulty:
        faulty.setattr(BatchedInnerLoop, "adapt", poisoned)
        faulty.setattr(adapter_run.AdapterRun, "clip", clip)
        made = runner.run(trials(runner, *texts), before={})
    assert weights_hash(module.loaded_policy.model) == before
    statuses = {a.edit.text.split()[0]: a.status for a in made}
    failed = {text for text, status in statuses.items() if status is not AttemptStatus.SCORED}
    assert failed == {"malformed", "infinite", "hungry", "nan"}
    assert {a.edit.text: a.failure for a in made}["hungry"] == "out of memory in the exam"
    alone = runner.run(trials(runner, "good"), before={})[0]
    assert made[0].reward == pytest.approx(alone.reward, abs=1e-5), "a neighbour's failure was felt"
    candidates = group_candidates(made, ToyTasks(1).load())
    line = round_summary(0, candidates, [])
    assert "7 attempts (3 scored, 1 malformed, 3 diverged; failed: " in line
    assert "out of memory in the exam 1" in line
    assert round_metrics(candidates, [])["diverged_rate"] == pytest.approx(3 / 7)


@pytest.mark.slow
def test_attempts_do_not_leak_memory(module: SealModule, counted: Callable[[int], int]) -> None:
    """Five hundred adapters, the last hundred against the second."""
    runner, process = module.runner, psutil.Process()
    texts = ["good", "slow", "malformed", "infinite", "good and long " + "stone " * 20]
    sizes = []
    for _ in range(5):
        for _ in range(counted(100) // len(texts)):
            runner.run(trials(runner, *texts), before={})
        gc.collect()
        sizes.append(process.memory_info().rss)
    assert sizes[-1] <= sizes[1] * 1.01, [size >> 10 for size in sizes]


def test_graders_verdicts_are_checked() -> None:
    class Careless(LocalRules):
        verdicts: tuple[Verdict, ...] = ()

        def grade(self, answered: list[AnsweredQuestion]) -> tuple[Verdict, ...]:
            return self.verdicts

    grader = Careless()
    asked = [AnsweredQuestion(question_id="q", question="Which?", gold_answers=("red",), answer="red")]
    for verdicts in [(), (Verdict(question_id="other", status=VerdictStatus.CORRECT),), ("correct",)]:
        grader.verdicts = verdicts
        with pytest.raises(RunError, match=r"model\.grader: Careless must return one verdict per answer"):
            grade_answers(asked, grader)


def test_save_checkpoint_refuses_nan(module: SealModule, tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.strategy.connect(module)
    path = tmp_path / "policy.ckpt"
    trainer.save_checkpoint(path)
    kept = path.read_bytes()
    with torch.no_grad():
        module.loaded_policy.lora[3].view(-1)[5] = float("nan")
    with pytest.raises(RunError, match=r"policy\.lora\.3 is NaN or infinite"):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["policy.ckpt", "policy.ckpt.json"]


def test_exam_that_fits_alone_runs_alone(tiny: LanguageModel, module: SealModule) -> None:
    runner: AttemptRunner = module.runner
    calls: list[int] = []
    score = module.engine.score

    def stingy(requests: list[ScoreRequest]):
        calls.append(len(requests))
        if len(requests) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(requests)

    module.engine.score = stingy  # type: ignore[method-assign]
    made: list[Attempt] = runner.run(trials(runner, "good", "slow"), before={})
    assert [a.status for a in made] == [AttemptStatus.SCORED] * 2
    assert calls == [2, 1, 1]
