"""Names that become paths, where a run may lie, and task ids: what is allowed, and that nothing leads out of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import ToyTask

from seal_lightning.cli.commands.loading import load_run
from seal_lightning.cli.main import main
from seal_lightning.core import Task
from seal_lightning.core.errors import ConfigError, DataError, RunError
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.core.names import checked_name, checked_run_dir
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule

# --- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["test", "self_edits", "a", "_", "0", "round_12", "a.b-c_d.E", "a" * 100, "COM10", "nul1"]
)
def test_checked_name_accepts_plain_names(name: str) -> None:
    assert checked_name(name, "it") == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "...",
            ".hidden",
            "-rf",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "../up",
            "a..b",
            "a.",
            "a ",
            " a",
            "a b",
        ),
        *("a\0", "a\n", "a\x1b[31m", "\x7f", "C:a", "a:b", "a*", "a?", "a|b", "~", "$HOME", "a" * 101, "é", "e\u0301"),
        *("．．", "／etc", "ａ", "①", "\u202eabc", "a\ud800", "\u2024\u2024", "ﬁ"),
    ],
)
def test_checked_name_rejects_other_names(name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a thing: ") as caught:
        checked_name(name, "the name of a thing")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [None, 3, b"bytes", Path("a"), ["a"]])
def test_checked_name_rejects_other_types(name: object) -> None:
    with pytest.raises(ConfigError):
        checked_name(name, "it")  # type: ignore[arg-type]


# --- the run directory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *(
            "runs/seal",
            "/data/runs/seal",
            ".hidden/run",
            "run one/2 ü 日本",
            "a" * 255,
            "con/run",
            "..a/b..",
            "-",
            "a:b",
        ),
        *("./runs", "run.", "//runs", "runs/", "e\u0301", "／"),
    ],
)
def test_checked_run_dir_accepts_any_folder(path: str) -> None:
    assert checked_run_dir(path) == Path(path)
    assert checked_run_dir(Path(path)) == Path(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("runs\0/x", "control characters"),
        ("runs\n", "control characters"),
        ("a\x1b]0;x\x07", "control characters"),
        ("a\ud800", "control characters"),
        ("a\u2028b", "control characters"),
        ("../runs", "the path itself"),
        ("runs/../../x", "the path itself"),
        ("..", "the path itself"),
        ("s3://bucket/run", "URL"),
        ("file:///tmp/run", "URL"),
        ("s3:/bucket/run", "URL"),
        ("simplecache::run", "URL"),
        ("~/runs", "home directory out"),
        ("~root", "home directory out"),
        ("/", "root of a file system"),
        ("//", "root of a file system"),
        ("/./", "root of a file system"),
        ("runs/" + "é" * 128, "255 bytes"),
    ],
)
def test_checked_run_dir_rejects_path(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        checked_run_dir(path, "RUN")
    assert str(caught.value).startswith("RUN: ")
    assert str(caught.value).isprintable()


def test_checked_run_dir_rejects_file_home_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not-there")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    wrong = {"file": "folder", "home": "home directory", "root": "root of a file system", "nowhere": "folder"}
    for name, said in wrong.items():
        with pytest.raises(ConfigError, match=said):
            checked_run_dir(tmp_path / name)
    with pytest.raises(ConfigError, match="home directory"):
        checked_run_dir(".")
    assert checked_run_dir("runs") == Path("runs")


def test_replay_reports_invalid_run_dir(capsys: pytest.CaptureFixture) -> None:
    assert main(["replay", "../x", "r0-a-e0-s0"]) == 1
    assert "RUN: '../x' is not allowed" in capsys.readouterr().err


# --- what a run holds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results", "checkpoints", "round_0", "tensorboard", "round_0/policy", "config.yaml"])
def test_a_link_out_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    (run.path / name).parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="outside the run directory"):
        RunDir.named(run.path)
    with pytest.raises(RunError, match="outside the run directory"):
        _ = run.write_result("a", 1), run.checkpoints, run.round(0), run.check_contents()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_within_a_run_and_a_linked_run_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "run" / "results").symlink_to("kept")
    path = RunDir.named(tmp_path / "run").write_result("a", {"b": 1})
    assert path.read_text() == '{\n "b": 1\n}'
    assert (tmp_path / "disk" / "kept" / "a.json").exists()


def test_other_things_in_the_folder_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "venv").symlink_to("/usr")
    assert RunDir.named(tmp_path).path == tmp_path


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/a.ckpt", "round_0/attempts.jsonl"])
def test_run_dir_refuses_a_pipe(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="neither a file nor a folder"):
        RunDir.named(tmp_path)


def test_no_result_is_overwritten_nor_a_link_followed(tmp_path: Path) -> None:
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
def test_a_result_is_not_written_elsewhere(name: str, suffix: str, tmp_path: Path) -> None:
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
        (b"a: 1", "it has no data and no model"),
        (b"model: 1\ndata: {}", "no configuration of a run"),
    ],
)
def test_a_configuration_that_is_none(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=said) as caught:
        load_run(RunDir(tmp_path))
    assert str(tmp_path / "config.yaml") in str(caught.value)


# --- task ids ----------------------------------------------------------------------------------------------------------


class Tasks(TaskSource):
    def __init__(self, *ids: object) -> None:
        self.ids = ids

    def load(self) -> Sequence[Task]:
        return [ToyTask(task_id=task_id, key="k", value="v") for task_id in self.ids]  # type: ignore[arg-type]


@pytest.mark.parametrize("task_id", ["a", "Überlingen 12/3", "日本", "../../etc", "a" * 200])
def test_a_task_id_is_any_printable_text(task_id: str) -> None:
    data = SealDataModule(train=Tasks("first", task_id))
    data.setup("fit")
    assert [task.task_id for task in data.tasks("train")] == ["first", task_id]


@pytest.mark.parametrize(
    "task_id", ["", "a\n", "a\0b", "\x1f", "a\u2028", "\u202eabc", "\ud800", "a" * 201, 3, None, b"a"]
)
def test_what_is_no_task_id(task_id: object) -> None:
    with pytest.raises(DataError, match=r"data\.train: the id of task 1, .* 1 to 200 printable characters") as caught:
        SealDataModule(train=Tasks("first", task_id)).setup("fit")
    assert str(caught.value).isprintable()


def test_a_task_id_is_given_once_a_source() -> None:
    data = SealDataModule(train=Tasks("a"), validation=Tasks("b", "c", "b"), test=Tasks("d"))
    with pytest.raises(DataError, match=r"data\.validation: two of its tasks have the id 'b'"):
        data.setup("fit")
    data.setup("test")
