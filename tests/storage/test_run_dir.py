"""Contents of a run directory: nothing is written or read outside of it, and nothing is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seal_lightning.cli.commands.loading import load_run
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.storage.run_dir import RunDir


@pytest.mark.parametrize("name", ["results", "checkpoints", "round_0", "tensorboard", "round_0/policy", "config.yaml"])
def test_run_dir_rejects_links_out_of_it(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    (run.path / name).parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="outside the run directory"):
        RunDir.named(run.path)
    with pytest.raises(RunError, match="outside the run directory"):
        _ = run.write_result("a", 1), run.checkpoints, run.round(0), run.check_contents()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_run_dir_allows_links_within_it(tmp_path: Path) -> None:
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "run" / "results").symlink_to("kept")
    path = RunDir.named(tmp_path / "run").write_result("a", {"b": 1})
    assert path.read_text() == '{\n "b": 1\n}'
    assert (tmp_path / "disk" / "kept" / "a.json").exists()


def test_run_dir_ignores_other_files(tmp_path: Path) -> None:
    (tmp_path / "venv").symlink_to("/usr")
    assert RunDir.named(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/a.ckpt", "round_0/attempts.jsonl"])
def test_run_dir_rejects_pipes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="neither a file nor a folder"):
        RunDir.named(tmp_path)


def test_write_result_overwrites_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    (run.path / "results").mkdir(parents=True)
    (run.path / "results" / "a.txt").symlink_to(tmp_path / "not-there")
    assert run.write_text_result("a", "txt", "x").name == "a-2.txt"
    assert run.write_text_result("a", "txt", "y").name == "a-3.txt"
    assert not (tmp_path / "not-there").exists()
    assert run.write_result("lone", "\ud800").read_text() == '"\\ud800"'


@pytest.mark.parametrize(
    ("name", "suffix"), [("../a", "json"), ("a", "../../b"), ("a", ""), ("a/b", "json"), ("", "txt")]
)
def test_write_result_rejects_other_names(name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of a result"):
        RunDir(tmp_path / "run").write_text_result(name, suffix, "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "NoneType"),
        (b"- a\n", "list"),
        (b"a: [", "plain values"),
        (b"a: \xff\xfe", "plain values"),
        (b"a: !!python/object/apply:os.system [id]", "plain values"),
        (b"a: " + b"9" * 100_000, "plain values"),
        (b"a: 1", "missing data, model"),
        (b"model: 1\ndata: {}", "not a run configuration"),
    ],
)
def test_load_run_rejects_invalid_configuration(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=said) as caught:
        load_run(RunDir(tmp_path))
    assert str(tmp_path / "config.yaml") in str(caught.value)
