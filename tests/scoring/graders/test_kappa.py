"""Agreement: torchmetrics' measures, and the local rules against GPT-4.1's verdicts where those are at hand."""

import json
import math
from pathlib import Path

import pytest

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.core.errors import DataError
from seal_lightning.core.interfaces import Grader
from seal_lightning.scoring.graders import LocalRules, cohen_kappa, exact_match_and_f1

DATA = Path(__file__).resolve().parents[3].parent / "shared/data"
FILES = sorted(DATA.glob("graded_answers*.jsonl"))
LEAST_KAPPA = 0.74


with_graded_answers = pytest.mark.parametrize(
    "path",
    FILES
    or [
        pytest.param(None, marks=pytest.mark.skip(f"no graded_answers*.jsonl in {DATA}: it lies beside the repository"))
    ],
    ids=lambda path: path.stem if path else "none",
)


def agreement(grader: Grader, path: Path) -> float:
    """Cohen's kappa of a grader's verdicts with those of a file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answered = [
        AnsweredQuestion(question_id=str(i), question=r["question"], gold_answers=(r["gold"],), answer=r["answer"])
        for i, r in enumerate(rows)
    ]
    verdicts = grader.grade(answered)
    scored = [(v, r) for v, r in zip(verdicts, rows, strict=True) if v.status is not VerdictStatus.UNSCORED]
    kappa = cohen_kappa([v.status is VerdictStatus.CORRECT for v, _ in scored], [r["correct"] for _, r in scored])
    print(f"\n{path.name}, {type(grader).__name__}: Cohen's kappa {kappa:.4f} on {len(scored)} of {len(rows)} answers")
    assert len(scored) >= 0.99 * len(rows)
    return kappa


@with_graded_answers
def test_local_rules_agree_with_the_judge(path):
    assert agreement(LocalRules(), path) >= LEAST_KAPPA


def test_cohen_kappa_by_hand():
    # 20 both correct, 5 ours only, 10 theirs only, 15 neither: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    ours = [True] * 25 + [False] * 25
    theirs = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(ours, theirs) == pytest.approx(0.4, abs=1e-6)
    assert cohen_kappa(ours, ours) == pytest.approx(1)
    assert cohen_kappa(ours, [not verdict for verdict in ours]) == pytest.approx(-1)


def test_cohen_kappa_without_information_is_nan():
    assert math.isnan(cohen_kappa([True, True], [True, True]))
    assert math.isnan(cohen_kappa([], []))


def test_cohen_kappa_of_different_lengths():
    with pytest.raises(DataError, match="2 verdicts against 1"):
        cohen_kappa([True, False], [True])


@pytest.mark.parametrize(
    ("answer", "golds", "exact_match", "f1"),
    [
        ("The Belka!", ["belka"], 1, 1),
        ("the river Belka", ["belka"], 0, 2 / 3),
        ("the river Belka", ["torva", "belka river", "river belka"], 1, 1),
        ("wool", ["flax", "cotton"], 0, 0),
        ("", ["flax"], 0, 0),
    ],
)
def test_exact_match_and_f1(answer, golds, exact_match, f1):
    assert exact_match_and_f1(answer, golds) == pytest.approx((exact_match, f1))


def test_exact_match_and_f1_needs_a_gold_answer():
    with pytest.raises(DataError, match="no gold answer"):
        exact_match_and_f1("flax", [])
