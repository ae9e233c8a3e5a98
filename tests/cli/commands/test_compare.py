"""``seal compare`` as it is called: what it prints, what it refuses, and that it starts without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reporting.stored_runs import continual, evaluation, question, result, row, write_run, write_test

from seal_lightning.cli.commands.compare import main
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.evaluation_records import ConditionResult, ProtocolRecord

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write_run(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return write_run(tmp_path / "b", seed=2, shift=-0.5)


def said(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_compare_two_runs(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, a, b)
    # q1 differs by 0.5, q2 not at all: 0.25 a task, of four tasks alike
    assert (
        "A − B  +0.2500 ± 0.0000 log_prob, p = 0.1250 (sign flips over tasks: exact, 16 signs), n = 4 tasks, 8 questions"
        in out
    )
    assert "A      passage + self-edit after round 2: -2.5000 ± 0.0000" in out
    assert "inside the noise (p = 0.12): it shows no difference. With 4 tasks p cannot be below 0.125" in out


def test_compare_two_conditions_of_one_run(a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "A − B  +1.0000" in said(capsys, a, a, "--condition_b", "no_adaptation")
    assert "A − B  +0.5000" in said(capsys, a, a, "--round", 2, "--round_b", 0)
    assert "A − B  -0.5000" in said(capsys, a, a, "--round", 0, "--condition_b", "self_edit")


def test_compare_difference_beyond_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def results(shift: float) -> list[ConditionResult]:
        return [result("self_edit", 1, f"t{i}", [question("q", -1.0 - 0.01 * i * shift - shift)]) for i in range(20)]

    paths = [write_test(tmp_path / name, evaluation(results(shift))) for name, shift in (("x", 0.5), ("y", 0.0))]
    out = said(capsys, *paths)
    assert "10,000 seeded draws" in out
    assert out.rstrip().endswith("B is better by 0.5475 in the mean: more than noise explains (p < 0.05).")
    assert out == said(capsys, *paths)


def test_compare_test_with_itself(a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "A and B score the same in the mean." in said(capsys, a, a)


def test_compare_takes_newest_test_or_named_file(a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = write_test(a, continual(), "test-2")
    assert "test-2.json" in said(capsys, a, newer)
    with pytest.raises(RunError, match="were not asked the same questions"):
        main([str(a), str(a / "results" / "test.json")])


def test_compare_json(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, a, b, "--json", "--score", "f1"))
    assert found["score"] == "f1"
    assert found["difference"] == {"mean": 0.0, "standard_error": 0.0}
    assert (found["p_value"], found["num_units"], found["num_questions"], found["num_unmeasured"]) == (1.0, 4, 4, 4)
    assert found["inside_the_noise"] is True
    assert found["a"]["condition"] == "self_edit"


def test_compare_counts_joint_training_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a continual test the units are its sequences; of one training, none: p speaks of its questions only."""
    steps = write_test(tmp_path / "steps", continual(num_steps=3, num_sequences=2))
    out = said(capsys, steps, steps, "--condition_b", "no_adaptation")
    assert "sign flips over sequences: exact, 4 signs), n = 2 sequences, 6 questions" in out
    assert "With 2 sequences p cannot be below 0.5" in out
    assert "tasks were learned together" not in out
    one = ProtocolRecord(name="continued pretraining", class_name="ContinuedPretraining")
    results = [
        result(condition, 0, f"t{i}", [question("q", score - 0.01 * i)])
        for i in range(8)
        for condition, score in (("self_edit", -1.0), ("no_adaptation", -2.0))
    ]
    path = write_test(tmp_path / "one", evaluation(results, protocol=one))
    out = said(capsys, path, path, "--condition_b", "no_adaptation")
    assert "over these questions more than noise explains (p < 0.05), but not tested over trainings" in out
    assert "tasks were learned together" in out
    found = json.loads(said(capsys, path, path, "--condition_b", "no_adaptation", "--json"))
    assert (found["unit"], found["num_units"], found["is_of_trainings"]) == ("task", 8, False)
    assert any("learned together" in note for note in found["notes"])


def test_compare_common_reports_skipped_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def results(*tasks: str) -> list[ConditionResult]:
        return [result("self_edit", 1, task, [question("q", -1.0)], failure="diverged: nan") for task in tasks]

    x = write_test(tmp_path / "x", evaluation(results("t", "u")))
    y = write_test(tmp_path / "y", evaluation(results("t", "v", "w")))
    with pytest.raises(RunError, match=r"1 only in A .*2 only in B"):
        main([str(x), str(y)])
    out = said(capsys, x, y, "--common")
    assert "only shared questions are compared: 1 only in A, 2 only in B and 0 with another text" in out
    assert "nothing could be learned in 2 results of A and 3 of B" in out


def test_compare_refusals(a: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"B: .*empty has no results/test.json. `seal test --run"):
        main([str(a), str(tmp_path / "empty")])
    with pytest.raises(RunError, match=r"A: .*nothing has no results/test.json"):
        main([str(tmp_path / "nothing"), str(a)])
    with pytest.raises(ConfigError, match="--round: -1 is not allowed"):
        main([str(a), str(a), "--round=-1"])
    with pytest.raises(SystemExit):
        main([str(a), str(a), "--score", "beauty"])
    (a / "results" / "test.json").write_text("{")
    with pytest.raises(RunError, match="is not a results file"):
        main([str(a), str(a)])


def test_compare_escapes_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = "\x1b[31mred [bold]x[/bold] :smile:"
    made = evaluation([result("self_edit", 1, "t", [question("q", -1.0)])], table=(row("self_edit", 1, label),))
    path = write_test(tmp_path, made)
    out = said(capsys, path, path)
    assert "\x1b" not in out
    assert r"\x1b[31mred [bold]x[/bold] :smile:" in out


def test_compare_starts_without_torch(a: Path, b: Path) -> None:
    code = (
        "import sys\nfrom seal_lightning.cli.commands.compare import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'lightning', 'matplotlib', 'pandas'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(a), str(b)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
