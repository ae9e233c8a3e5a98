"""``seal adapters`` as it is called: what it prints, what it refuses, and that it starts without torch."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from adapted_folders import write_adapted
from transformers import AutoModelForCausalLM

from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.commands.adapters import main
from seal_lightning.cli.main import main as seal
from seal_lightning.core.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def a(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


@pytest.fixture
def b(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "b", tiny_folder, seed=4)


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_listing(a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, a.path, b.path)
    assert out == said(capsys, "list", a.path, b.path)
    assert out.count("rank 4 on 6 modules") == 2
    plain = json.loads(said(capsys, "list", a.path, "--json"))
    assert plain[0]["record"]["exams"][1]["name"] == "probe"
    assert plain[0]["path"] == str(a.path)


def test_what_cannot_be_listed_does_not_hide_the_rest(
    a: AdaptedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", str(tmp_path / "none"), str(a.path)]) == 1
    told = capsys.readouterr()
    assert "rank 4" in told.out
    assert told.err.startswith("seal adapters: error: DIR: ")
    assert main(["list", str(tmp_path / "none"), "--json"]) == 1
    assert "is no adapted folder" in json.loads(capsys.readouterr().out)[0]["error"]


def test_a_folder_that_has_a_verb_s_name(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapted(tmp_path / "list", tiny_folder)
    monkeypatch.chdir(tmp_path)
    assert "rank 4" in said(capsys, "./list")
    with pytest.raises(SystemExit):  # the verb, without a folder
        main(["list"])


def test_comparing(a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "compare", a.path, b.path, "--updates")
    assert "probe: the same 8 questions" in out
    assert "a and b, q_proj: " in out
    plain = json.loads(said(capsys, "compare", a.path, b.path, "--json"))
    assert plain["same_questions"][0]["names"] == ["probe"]
    assert plain["updates"] == []
    with pytest.raises(ConfigError, match="two folders or more"):
        main(["compare", str(a.path)])


def test_merging(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "merge", f"{a.path}=0.5", b.path, "--out", tmp_path / "sum", "--max_rank", 3)
    assert "rank 3 of 8; left out: " in out
    assert "Its exams are unknown" in out
    assert "no exam: what it knows was not measured" in said(capsys, tmp_path / "sum")
    with pytest.raises(ConfigError, match="--max_rank: 0 is not allowed"):
        main(["merge", str(a.path), "--out", str(tmp_path / "x"), "--max_rank", "0"])
    b.write_record(type(b.record())(base=b.record().base, asking=b.record().asking, earlier=("a",)))
    assert "b was adapted on top of a and holds its update" in said(
        capsys, "merge", a.path, b.path, "--out", tmp_path / "y"
    )


def test_exporting(a: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "MiB; transformers loads it as any model" in said(capsys, "export", a.path)
    assert " with a full model, written " in said(capsys, a.path)
    assert AutoModelForCausalLM.from_pretrained(a.merged).config.num_hidden_layers == 2
    with pytest.raises(RunError, match="--overwrite puts a new one in its place"):
        main(["export", str(a.path)])
    said(capsys, "export", a.path, "--overwrite")


def test_removing_is_asked_for(
    a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="--yes: is needed"):
        main(["remove", str(a.path)])
    with pytest.raises(RunError, match="is no adapted folder"):
        main(["remove", str(a.path), str(a.path / "adapter"), "--yes"])  # all are looked at first
    assert a.adapter.is_dir()
    (a.path / "notes.md").write_text("mine")
    out = said(capsys, "remove", a.path, b.path, f"{b.path}/", "--yes")
    assert "kept: notes.md" in out
    assert [p.name for p in a.path.iterdir()] == ["notes.md"]
    assert not b.path.exists()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_removing_on_a_terminal(a: AdaptedFolder, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "seal_lightning", "adapters", "remove", str(a.path)]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        os.write(ours, answer.encode())
        out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, a.path.exists()) == (code, code == 1)
    assert b"Remove this for good? [y/N]" in err
    assert (b"Nothing was removed" in out) == (code == 1)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(["adapters"]) == 2
    assert "usage: seal adapters" in capsys.readouterr().err
    assert seal(["adapters", "--help"]) == 0
    assert "seal adapters merge" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seal(["adapters", "export", str(tmp_path / "none")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("seal adapters: error: DIR: ")
    assert err.count("\n") == 1


def test_it_starts_without_torch(a: AdaptedFolder, b: AdaptedFolder) -> None:
    script = (
        "import sys\nfrom seal_lightning.cli.main import main\n"
        f"assert main(['adapters', {str(a.path)!r}]) == 0\n"
        f"assert main(['adapters', 'compare', {str(a.path)!r}, {str(b.path)!r}]) == 0\n"
        f"assert main(['adapters', 'remove', {str(a.path)!r}, '--yes']) == 0\n"
        "assert not {'torch', 'transformers', 'lightning', 'peft'} & sys.modules.keys()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
