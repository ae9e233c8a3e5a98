"""The command ``seal adapters``: its output, its errors, and its start without torch."""

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
    return write_adapted(tmp_path / "b", tiny_folder, seed=4, earlier=("\x1b[2Jfirst",))


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_list_shows_each_folder(a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, a.path, b.path)
    assert out == said(capsys, "list", a.path, b.path)
    assert out.count("rank 4, ") == 2
    assert "1 documents, 4 passages, 0 skipped; 12 of 20 edits kept" in out
    assert "probe: 8 questions of general knowledge by this package" in out
    assert "0.750 ± 0.125" in out
    assert "contains the updates of \\x1b[2Jfirst\n  before: with " in out
    (plain,) = json.loads(said(capsys, "list", a.path, "--json"))
    assert (plain["path"], plain["rank"], plain["exams"][1]["name"]) == (str(a.path), 4, "probe")


def test_list_goes_on_after_an_error(a: AdaptedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(tmp_path / "none"), str(a.path)]) == 1
    shown = capsys.readouterr()
    assert "rank 4" in shown.out
    assert "is not an adapted folder" in shown.err
    (a.adapter / "adapter_config.json").write_text("[1]")
    assert main([str(a.path)]) == 1
    assert "not a readable adapter configuration" in capsys.readouterr().err


def test_compare_shows_shared_exams_and_settings(
    a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "compare", a.path, b.path)
    assert "probe: the same questions" in out
    assert "these documents" not in out
    assert "(2) adapted" in out
    assert "name: 'a', 'b'" in out
    with pytest.raises(ConfigError, match="two folders or more"):
        main(["compare", str(a.path)])


def test_merge_parses_weights(
    a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "rank 3; the sum was not" in said(
        capsys, "merge", f"{a.path}=-0.5", b.path, "--out", tmp_path / "sum", "--max_rank", 3
    )
    assert "no exam: what it knows was not measured" in said(capsys, tmp_path / "sum")
    merged = AdaptedFolder(tmp_path / "sum").record().merged
    assert merged is not None
    assert merged.weights == {str(a.path): -0.5, str(b.path): 1.0}
    for wrong in ("x", "nan", "inf", "0", "1,5", ""):
        with pytest.raises(ConfigError, match="finite weight other than 0"):
            main(["merge", f"{a.path}={wrong}", "--out", str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="--max_rank: 0 is not allowed"):
        main(["merge", str(a.path), "--out", str(tmp_path / "x"), "--max_rank", "0"])


def test_export_writes_a_model(a: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "load it with transformers" in said(capsys, "export", a.path)
    assert "with a full model" in said(capsys, a.path)
    assert AutoModelForCausalLM.from_pretrained(a.merged).config.num_hidden_layers == 2
    with pytest.raises(RunError, match="--overwrite replaces it"):
        main(["export", str(a.path)])
    said(capsys, "export", a.path, "--overwrite")


def test_remove_needs_yes_without_a_terminal(
    a: AdaptedFolder, b: AdaptedFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigError, match="--yes is needed"):
        main(["remove", str(a.path)])
    with pytest.raises(RunError, match="is not an adapted folder"):
        main(["remove", str(a.path), str(a.path / "adapter"), "--yes"])  # all are checked first
    assert a.adapter.is_dir()
    (a.path / "notes.md").write_text("mine")
    out = said(capsys, "remove", a.path, b.path, f"{b.path}/", "--yes")
    assert "other files stay: notes.md" in out
    assert [p.name for p in a.path.iterdir()] == ["notes.md"]
    assert not b.path.exists()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_remove_asks_on_a_terminal(a: AdaptedFolder, answer: str, code: int) -> None:
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


def test_command_shows_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for args, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            seal(["adapters", *args])
        assert ended.value.code == code
    assert "usage: seal adapters" in capsys.readouterr().out


def test_command_starts_without_torch(a: AdaptedFolder, b: AdaptedFolder) -> None:
    script = (
        "import sys\nfrom seal_lightning.cli.main import main\n"
        f"assert main(['adapters', {str(a.path)!r}]) == 0\n"
        f"assert main(['adapters', 'remove', {str(a.path)!r}, '--yes']) == 0\n"
        "assert not {'torch', 'transformers', 'lightning', 'peft'} & sys.modules.keys()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
