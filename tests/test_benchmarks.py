"""The benchmark of the inner loop runs, shrunk: what it measures is for its own hour, that it measures is for the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import write_tiny_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
@pytest.mark.slow  # its random weights borrow the embedded model's tokenizer
def test_the_inner_loop_s_benchmark_makes_its_table(tmp_path: Path) -> None:
    passage = {
        "title": "Stones",
        "context": "The first stone is green. The second stone is blue.",
        "questions": [{"question": "What colour is the first stone?", "answer": "green"}],
        "completions": ["The first stone is green.\nThe second is not.", "Stones have colours.\nThe second is blue."],
    }
    data, found = tmp_path / "edits.json", tmp_path / "found.json"
    data.write_text(json.dumps([passage]))
    small = ["--random-weights", "tiny-shape", "--epochs", "1", "--compared", "1", "--repeats", "1", "--passages", "1"]
    command = [sys.executable, "tests/benchmarks/inner_loop.py", "--data", str(data), *small]
    command += ["--sampled-tokens", "4", "--json", str(found)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    median = json.loads(found.read_text())["median"]
    for part in ("train a", "train b", "train c", "train d", "answer c", "answer d", "E-step c", "E-step d"):
        assert median[part] > 0
    assert "| train | (d) ours |" in shown
    assert "extrapolated" in shown
    assert "GFLOP/s" in shown


@pytest.mark.slow
def test_the_rewards_benchmark_makes_its_table(tmp_path: Path) -> None:
    folder, found = write_tiny_model(tmp_path / "tiny", max_length=4096), tmp_path / "found.json"
    small = ["--model", str(folder), "--layers", "--passages", "2", "--edits", "3", "--edit_tokens", "8"]
    command = [sys.executable, "tests/benchmarks/rewards.py", *small, "--question_tokens", "8", "--json", str(found)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    rewards = json.loads(found.read_text())["rewards"]
    assert list(rewards) == ["likelihood", "own questions", "rubric", "retention", "accuracy"]
    for name, row in rewards.items():
        assert row["attempts"] == 6
        assert row["scored"] == (0 if name == "own questions" else 6), "random weights ask nothing"
        assert row["an attempt"] >= 0
    assert "| likelihood |" in shown


@pytest.mark.slow
def test_the_documents_benchmark_measures(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n" + "The first stone is green, and the second stone is blue. " * 30)
    command = [sys.executable, "tests/benchmarks/documents.py", str(tmp_path), "--chars", "5000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "tokens by estimated tokens: median" in shown
    assert "1 documents" in shown
    assert all(f"5000 characters as .{ending}: " in shown for ending in ("txt", "md", "html"))
