"""The learned grader's benchmark runs, shrunk: it makes its tables, and weights that the package can read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seal_lightning.scoring.graders.learned_grader import LearnedWeights

ROOT = Path(__file__).resolve().parents[3]
NOUNS = ["mill", "orchard", "harbour", "bridge", "school", "market", "chapel", "quarry"]
NAMES = ["Velde", "Hasse", "Brandt", "Okafor", "Lindqvist", "Moreau", "Castell", "Tanaka"]


@pytest.mark.slow
def test_the_benchmark_makes_its_tables_and_weights(tmp_path):
    rows = [
        {
            "title": f"Town {town}",
            "question": f"Who owned the {noun} of town {town}?",
            "gold": gold,
            "answer": a,
            "correct": c,
        }
        for town in range(10)
        for noun, gold in zip(NOUNS, NAMES[town % 8 :] + NAMES[: town % 8], strict=True)
        for a, c in ((f"It was owned by {gold}.", True), ("A family of weavers owned it.", False))
    ]
    data = tmp_path / "graded.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def benchmark(*options: str) -> str:
        command = [sys.executable, "tests/benchmarks/learned_grader.py", "--data", str(data), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    shown = benchmark("--seeds", "3")
    assert "| LearnedGrader: both | 1.000 |" in shown
    assert "| hedge |" in shown
    benchmark("--save", str(tmp_path))
    assert LearnedWeights.read(tmp_path / "learned_grader.json").weights["recall"] > 0
