"""Runs after and beside each other: one process group a run directory, and nothing of one run gets into another."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from fakes import ToyDomain, ToyTasks
from lightning.pytorch import Callback, Trainer
from test_end_to_end import attempts, config, fit

from seal_lightning.cli.main import main
from seal_lightning.cli.trainer import seal_trainer
from seal_lightning.core import AdapterSpec, Attempt, OptimizerSpec, RewardScore, SamplingSpec
from seal_lightning.core.errors import RunError
from seal_lightning.distributed import interruption
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.rewards import LikelihoodReward
from seal_lightning.storage.run_dir import RunLock
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule


class HalfBroken(LikelihoodReward):
    """No number for an edit's first repeat."""

    def score(self, attempt: Attempt) -> RewardScore:
        score = super().score(attempt)
        return RewardScore(value=math.nan if attempt.repeat == 0 else score.value, breakdown={"part": math.inf})


@pytest.fixture
def module(tiny_folder: Path) -> SealModule:
    return SealModule(
        domain=ToyDomain(optimizer=OptimizerSpec(num_epochs=1)),
        pretrained=Pretrained(source=str(tiny_folder), dtype="float64"),
        sampling=SamplingSpec(max_new_tokens=4),
        policy_adapter=AdapterSpec(rank=2, alpha=4, target_modules="all-linear"),
        reinforce=OptimizerSpec(num_epochs=1, batch_size=2),
        rounds=1,
        num_edits=2,
        num_repeats=1,
    )


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Those of a fresh process, whatever the tests before left."""
    fresh = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in fresh.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signal_handlers() -> tuple[object, object]:
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


def trainer(folder: Path, more: Sequence[Callback] = (), *, resume: bool = False) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False}
    return seal_trainer(folder, rounds=1, callbacks=more, resume=resume, accelerator="cpu", devices=1, **quiet)


def data(**sources: ToyTasks) -> SealDataModule:
    return SealDataModule(train=ToyTasks(2), **sources)


def test_one_module_serves_several_runs(module: SealModule, tmp_path: Path) -> None:
    """Validate, then fit, then fit elsewhere: each run has attempts of its own, and signals are as they were."""
    before = signal_handlers()
    trainer(tmp_path / "v").validate(module, data(validation=ToyTasks(1, offset=9)))
    for name in ("first", "second"):
        trainer(tmp_path / name).fit(module, data())
        assert len(attempts(tmp_path / name, 0)) == 4
    assert signal_handlers() == before
    assert not interruption.stop_requested()


def test_failed_run_restores_signal_handlers(module: SealModule, tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_start(self, *args: object) -> None:
            raise ValueError("no")

    before = signal_handlers()
    with pytest.raises(ValueError, match="no"):
        trainer(tmp_path / "failed", [Fails()]).fit(module, data())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    trainer(tmp_path / "next").fit(module, data())
    assert signal_handlers() == before


def test_fit_refuses_another_seeds_attempts(module: SealModule, tmp_path: Path) -> None:
    trainer(tmp_path).fit(module, data())
    shutil.rmtree(tmp_path / "checkpoints")
    module.runner.seed = 2
    with pytest.raises(RunError, match="was made with another seed"):
        trainer(tmp_path, resume=True).fit(module, data())


def test_fit_refuses_a_locked_run_dir(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "run"
    settings = config(tiny_folder, run_dir, rounds=1)
    lock = RunLock(run_dir)
    lock.acquire()
    half_written = run_dir / "checkpoints" / ".round0-m_step.ckpt.123.tmp"
    half_written.parent.mkdir()
    half_written.touch()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main(["fit", "--resume", str(run_dir)]) == 1
    assert "is locked by another process" in capsys.readouterr().err
    assert half_written.exists()
    lock.release()
    (run_dir / "project").mkdir()
    (run_dir / "project" / ".draft.1.tmp").touch()
    (run_dir / ".notes.tmp").touch()
    assert main(["fit", "--resume", str(run_dir)]) == 0
    assert not half_written.exists()
    assert (run_dir / "project" / ".draft.1.tmp").exists(), "what is not the run's was removed"
    assert (run_dir / ".notes.tmp").exists()


def test_resume_needs_an_intact_checkpoint(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "run"
    assert fit(tmp_path, config(tiny_folder, run_dir, rounds=1)) == 0
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    for command in (["fit", "--resume"], ["test", "--run"]):
        assert main([*command, str(run_dir)]) == 1
        assert "no checkpoint in" in capsys.readouterr().err


def test_fit_refuses_another_checkpoint_io(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = config(tiny_folder, tmp_path / "run")
    settings["trainer"]["plugins"] = [{"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}]
    assert fit(tmp_path, settings) == 1
    assert "trainer.plugins: TorchCheckpointIO is not allowed" in capsys.readouterr().err


def test_fit_leaves_nan_rewards_unscored(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when it is read again: a resumed run would choose other edits."""
    settings = config(tiny_folder, tmp_path / "whole", rounds=1, num_repeats=2)
    settings["model"]["reward"] = {"class_path": "test_runs_together.HalfBroken"}
    assert fit(tmp_path, settings) == 0
    monkeypatch.setenv("SEAL_TEST_INTERRUPT", "attempt:0:14")
    halved = settings | {"run_dir": str(tmp_path / "halved")}
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, halved)
    monkeypatch.delenv("SEAL_TEST_INTERRUPT")
    assert main(["fit", "--resume", str(tmp_path / "halved")]) == 0
    kept = [(tmp_path / name / "round_0" / "accepted.jsonl").read_bytes() for name in ("whole", "halved")]
    assert kept[0] == kept[1]
    assert {a.status.value for a in attempts(tmp_path / "whole", 0) if a.repeat == 0} == {"unscored"}


def test_fit_resumes_from_an_absolute_checkpoint(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(tiny_folder, Path("run"), rounds=1)
    assert fit(tmp_path, settings) == 0
    newest = tmp_path / "run" / "checkpoints" / "round0-m_step.ckpt"
    assert fit(tmp_path, settings, "--ckpt_path", str(newest)) == 0
    assert fit(tmp_path, settings, "--ckpt_path", "last") == 0
