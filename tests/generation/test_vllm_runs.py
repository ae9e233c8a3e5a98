"""Whole runs through a server, and what each of their scores is in this process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from completions_server import CompletionsServer, serving
from fakes import write_tiny_model
from test_end_to_end import attempts, buffer, config, final_loras, fit

from seal_lightning.cli.commands import replay as replaying
from seal_lightning.cli.commands.loading import load_run
from seal_lightning.cli.main import main
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.storage.run_dir import RunDir

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[CompletionsServer]:
    pretrained = Pretrained(source=str(tiny_folder), dtype="float64").load()
    one = CompletionsServer()
    one.serve(pretrained.model, pretrained.tokenizer)
    with serving(one):
        yield one


def engine(server: CompletionsServer, **options: Any) -> dict[str, Any]:
    options = {"model": "base", "base_url": server.url, "max_lora_rank": 16} | options
    return {"class_path": "seal_lightning.generation.VllmEngine", "init_args": options}


@pytest.fixture(scope="module")
def run_dir(server: CompletionsServer, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds with validation, then the test."""
    folder = tmp_path_factory.mktemp("runs") / "served"
    settings = config(tiny_folder, folder, engine=engine(server), test_edits=1)
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 20}}
    assert fit(folder.parent, settings) == 0
    assert main(["test", "--run", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_vllm_run_has_two_rounds(run_dir: Path, server: CompletionsServer) -> None:
    for round_index in (0, 1):
        assert len(attempts(run_dir, round_index)) == 12
        assert len(buffer(run_dir, round_index)) == 8
        assert all(attempt.reward is not None for attempt in attempts(run_dir, round_index))
    assert len(final_loras(run_dir)) == 2
    ranks = {body["lora_name"] for path, body in server.requests if path == "/v1/load_lora_adapter"}
    assert len(ranks) > 24, "an adapter an attempt, and the policy's"


@pytest.mark.slow
def test_vllm_run_scores_equal_in_process(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt of both rounds made again with the in-process engine: same adapter, same policy, same reward."""

    def loaded_in_process(run: RunDir) -> Any:
        module, data = load_run(run)
        module.engine = TransformersEngine()
        return module, data

    monkeypatch.setattr(replaying, "load_run", loaded_in_process)
    run = RunDir.named(str(run_dir), "RUN")
    some = [attempt for round_index in (0, 1) for attempt in attempts(run_dir, round_index)[::3]]
    for stored in some:
        again = replaying.replay(run, stored)
        assert again.reward == pytest.approx(stored.reward, abs=1e-5)
        for exam, expected in ((again.before, stored.before), (again.after, stored.after)):
            assert exam is not None
            assert expected is not None
            for one, other in zip(exam.questions, expected.questions, strict=True):
                assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)
                assert one.answer == other.answer
    assert len({attempt.reward for attempt in some}) > 4
    first, second = ({a.before.questions[0].log_prob for a in attempts(run_dir, r) if a.before} for r in (0, 1))
    assert first.isdisjoint(second), "the policy of the second round is another one"


@pytest.mark.slow
def test_vllm_replay_asks_the_server(run_dir: Path, server: CompletionsServer) -> None:
    before = len(server.requests)
    for round_index in (0, 1):
        assert main(["replay", str(run_dir), attempts(run_dir, round_index)[-1].attempt_id]) == 0
    assert len(server.requests) > before


@pytest.mark.slow
def test_vllm_edits_are_the_sampled_tokens(run_dir: Path, tiny_folder: Path) -> None:
    decode = Pretrained(source=str(tiny_folder)).load().decode
    for round_index in (0, 1):
        for attempt in attempts(run_dir, round_index):
            assert attempt.edit.token_ids
            assert decode(list(attempt.edit.token_ids)).startswith(attempt.edit.text)


@pytest.mark.slow
def test_vllm_student_must_be_the_same_model(
    server: CompletionsServer, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"source": str(tiny_folder), "dtype": "float64"}
    settings = config(tiny_folder, tmp_path / "same", engine=engine(server), student=same, rounds=1, num_edits=2)
    assert fit(tmp_path, settings) == 0
    other = {"source": str(write_tiny_model(tmp_path / "other", seed=3)), "dtype": "float64"}
    settings = config(tiny_folder, tmp_path / "another", engine=engine(server), student=other, rounds=1, num_edits=2)
    assert fit(tmp_path, settings) == 1
    assert "model.student uses the same server" in capsys.readouterr().err


@pytest.mark.slow
def test_vllm_rank_of_a_later_round_is_refused_first(
    server: CompletionsServer, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rounds of rank 4 come to 12; nothing is computed."""
    before = len(server.requests)
    settings = config(tiny_folder, tmp_path / "run", engine=engine(server, max_lora_rank=8), rounds=3)
    assert fit(tmp_path, settings) == 1
    assert "--max-lora-rank 16" in capsys.readouterr().err
    assert len(server.requests) == before
    assert not (tmp_path / "run" / "round_0" / "attempts.rank0.jsonl").exists()


@pytest.mark.slow
def test_vllm_ranks_of_merges_and_sweeps_are_refused_first(
    server: CompletionsServer, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three steps of rank 2 fit 8; five do not."""
    before = len(server.requests)
    protocol = {
        "class_path": "seal_lightning.evaluation.ContinualSelfEdits",
        "init_args": {"num_steps": 5, "adapter": {"rank": 2, "alpha": 4.0}},
    }
    settings = config(tiny_folder, tmp_path / "run", engine=engine(server, max_lora_rank=8), protocol=protocol)
    settings["data"]["test"]["init_args"]["num_tasks"] = 5
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["test", "-c", str(path)]) == 1
    assert "--max-lora-rank 16" in capsys.readouterr().err
    assert len(server.requests) == before
    out = ["--out", str(tmp_path / "sweep"), "--edits", "passage", "--grid", "rank=2,9"]
    assert main(["sweep", "-c", str(path), *out]) == 1
    assert "--max-lora-rank 16" in capsys.readouterr().err
    assert len(server.requests) == before


@pytest.mark.slow
def test_vllm_process_leaves_nothing(server: CompletionsServer, tiny_folder: Path, tmp_path: Path) -> None:
    """Neither adapters at the server nor folders."""
    (tmp_path / "tmp").mkdir()
    settings = config(tiny_folder, tmp_path / "run", engine=engine(server), rounds=1, num_edits=2)
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 1, "offset": 20}}
    gc.collect()
    before, num_loaded = set(server.adapters), len(server.sent("/v1/load_lora_adapter"))
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    environment = os.environ | {
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent))),
    }
    command = [sys.executable, "-m", "seal_lightning", "fit", "-c", str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert len(server.sent("/v1/load_lora_adapter")) > num_loaded
    assert set(server.adapters) <= before
    assert [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("seal-")] == []


@pytest.mark.slow
def test_vllm_two_ranks_share_a_server(server: CompletionsServer, tiny_folder: Path, tmp_path: Path) -> None:
    """The buffer and the attempts of one process; every rank has adapters of its own."""
    runs = []
    for num_ranks in (1, 2):
        folder = tmp_path / str(num_ranks)
        settings = config(tiny_folder, folder / "run", engine=engine(server, adapter_dir=str(folder / "adapters")))
        settings["trainer"] |= {"devices": num_ranks, "strategy": "ddp" if num_ranks > 1 else "auto", "logger": False}
        folder.mkdir()
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "seal_lightning", "fit", "-c", str(folder / "settings.yaml")]
        places = os.pathsep.join((str(TESTS), str(TESTS.parent)))
        environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
        server.requests.clear()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr[-3000:]
        names = [body["lora_name"] for body in server.sent("/v1/load_lora_adapter")]
        assert len(set(names)) == len(names)
        assert list((folder / "adapters").iterdir()) == []
        runs.append(folder / "run")
    for round_index in (0, 1):
        first, second = ({a.attempt_id: a.reward for a in attempts(run, round_index)} for run in runs)
        assert first.keys() == second.keys()
        if round_index == 0:
            assert first == pytest.approx(second, abs=1e-9)
            assert buffer(runs[0], 0) == buffer(runs[1], 0)


@pytest.mark.slow
def test_vllm_full_finetuning_is_evaluated_in_process(
    server: CompletionsServer, tiny_folder: Path, tmp_path: Path
) -> None:
    """The policy writes at the server; whole models are asked here."""
    loop = {"class_path": "seal_lightning.inner_loop.FullFinetuning"}
    settings = config(tiny_folder, tmp_path / "run", engine=engine(server), inner_loop=loop, rounds=1, num_edits=2)
    settings["model"]["domain"]["init_args"]["optimizer"]["learning_rate"] = 1e-3
    assert fit(tmp_path, settings) == 0
    assert all(attempt.reward is not None for attempt in attempts(tmp_path / "run", 0))
    assert main(["replay", str(tmp_path / "run"), attempts(tmp_path / "run", 0)[0].attempt_id]) == 0
