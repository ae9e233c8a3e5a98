"""Checks of names that become paths, and of run directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from seal_lightning.cli.main import main
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.names import checked_name, checked_run_dir


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
