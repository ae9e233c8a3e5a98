"""``seal report`` as it is called: the files it writes, where passages come from, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reporting.stored_runs import attempt, settings, write_round, write_run, write_settings

from seal_lightning.cli.commands.report import main
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.domains.knowledge import BundledPassages

ROOT = Path(__file__).resolve().parents[3]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def report(*args: object) -> int:
    return main([*map(str, args), "--without_contexts"])


def test_report_of_one_run_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert report(run) == 0
    assert files(run / "results") == ["report.html", "report.md", "test.json"]
    out = capsys.readouterr().out
    assert str(run / "results" / "report.html") in out
    first = (run / "results" / "report.html").read_bytes()
    assert report(run) == 0
    assert files(run / "results") == ["report-2.html", "report-2.md", "report.html", "report.md", "test.json"]
    assert (run / "results" / "report.html").read_bytes() == first
    text = (run / "results" / "report.md").read_text()
    assert text.startswith("# SEAL: the run run\n\n10 attempts in 2 rounds, 1 test\n")
    assert "| passage + self-edit after round 2 | 4 (8) | -2.00 ± 0.10 | 0.250 ± 0.100 |" in text


def test_report_of_several_runs_needs_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "run", seed) for seed, name in ((1, "a"), (2, "b"))]
    with pytest.raises(ConfigError, match="--out is missing"):
        report(*runs)
    for _ in range(2):
        assert report(*runs, "--out", tmp_path / "new" / "out") == 0
    assert files(tmp_path / "new" / "out") == ["report-2.html", "report-2.md", "report.html", "report.md"]
    text = (tmp_path / "new" / "out" / "report.md").read_text()
    assert "mean over runs" in text
    assert "equal settings, a seed of its own each" in text
    assert files(runs[0] / "results") == ["test.json"]
    assert f"{tmp_path}/a/run".replace("_", r"\_") in text  # both are called run


def test_report_reads_passages_from_data(tmp_path: Path) -> None:
    passage = BundledPassages(split="train", limit=1).load()[0]
    run = tmp_path / "run"
    write_settings(run, settings())
    write_round(run, 0, [attempt(passage.task_id, edit, 0, -1.0 * edit) for edit in (0, 1)])
    assert main([str(run)]) == 0
    text = (run / "results" / "report.md").read_text()
    assert f"{passage.title}\n{passage.context}" in text
    assert "has no results of a test" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": {"train": {"class_path": "no.such.Source"}}}, "its data cannot be read"),
        ({"data": None}, "its data cannot be read"),
        (None, "there is no config.yaml"),
    ],
)
def test_report_says_why_passages_are_missing(tmp_path: Path, change: dict[str, object] | None, reason: str) -> None:
    run = write_run(tmp_path / "run")
    if change is None:
        (run / "config.yaml").unlink()
    else:
        write_settings(run, settings() | change)
    assert main([str(run)]) == 0
    text = (run / "results" / "report.md").read_text()
    assert reason in text
    assert "Prompt of maud" in text


def test_report_of_tests_only_and_attempts_only(tmp_path: Path) -> None:
    tested, tried = write_run(tmp_path / "tested"), write_run(tmp_path / "tried")
    for folder in tested.glob("round_*"):
        for file in folder.iterdir():
            file.unlink()
    (tried / "results" / "test.json").unlink()
    assert report(tested) == report(tried) == 0
    assert "has no stored attempts" in (tested / "results" / "report.md").read_text()
    assert "has no results of a test" in (tried / "results" / "report.md").read_text()


def test_report_refusals(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty has nothing to report: .*seal fit -c CONFIG"):
        report(tmp_path / "empty")
    with pytest.raises(RunError, match="is not a run directory: no such folder"):
        report(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="it must be a folder"):
        report(run / "config.yaml")
    with pytest.raises(ConfigError, match="is named twice"):
        report(run, f"{run}/", "--out", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--out: .* it must be a folder"):
        report(run, "--out", run / "config.yaml")
    journal = run / "round_0" / "attempts.rank0.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole.replace(b"Edit", b"Tide"))
    with pytest.raises(RunError, match=r"line 1: its checksum is wrong.*--repair"):
        report(run)
    journal.write_bytes(whole)
    (run / "results" / "test.json").write_text('{"format": 2}')
    with pytest.raises(RunError, match=r"test\.json is not a results file"):
        report(run)
    assert not (tmp_path / "out").exists()
    assert files(run / "results") == ["test.json"]


def test_report_without_contexts_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom seal_lightning.cli.commands.report import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'lightning', 'matplotlib.pyplot'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    run = write_run(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), "--without_contexts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "results" / "report.html").stat().st_size > 10_000
