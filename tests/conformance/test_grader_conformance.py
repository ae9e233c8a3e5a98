"""What every grader must do; a new one needs a line in ``GRADERS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from implementations import implementations
from rules_judge import RulesJudge

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.core.interfaces import Grader
from seal_lightning.scoring.graders import JudgeGrader, LocalRules

GRADERS: dict[str, Callable[[], Grader]] = {
    "local rules": LocalRules,
    "local rules, strict": lambda: LocalRules(min_recall=1.0, min_fuzzy=1.0, min_f1=1.0),
    "local rules, short-sighted": lambda: LocalRules(max_chars=8),
    "judge": lambda: JudgeGrader(RulesJudge()),
    "judge that tells probabilities": lambda: JudgeGrader(RulesJudge(tells=True), num_decoys=2),
}

ODD = {
    "empty": "",
    "blank": " \t\n\u00a0\u3000",
    "nul": "\0",
    "lone surrogate": "red \ud800",
    "combining marks only": "\u0301\u0302",
    "right to left": "\u202eder",
    "emoji": "👩‍👩‍👧‍👦🟥",
    "digits of other scripts": "٣ ³ Ⅻ ½ 四",
    "number without end": "9" * 5000 + "." * 10 + "1,000,00,0",
    "punctuation": "?!…—'’\"\\/{}[]()",
    "braces and percents": "{0} %s %(x)d ${y}",
    "expands in lower case": "İ" * 300 + "ﷺ" * 50,
    "a pattern": "(a+)+$" + "a" * 3000,
    "megabyte": "red " * 250_000,
    "megabyte without a blank": "r" * 1_000_000,
}


def test_every_grader_is_registered() -> None:
    found = implementations(Grader)
    assert found
    missing = found - {type(make()) for make in GRADERS.values()}
    assert not missing, f"add a line to GRADERS for {sorted(kind.__qualname__ for kind in missing)}"


@pytest.fixture(params=GRADERS)
def grader(request: pytest.FixtureRequest) -> Grader:
    return GRADERS[request.param]()


def answered(answer: str, *golds: str, question: str = "What colour is it?", name: str = "q") -> AnsweredQuestion:
    return AnsweredQuestion(question_id=name, question=question, gold_answers=golds, answer=answer)


MIXED = [
    answered("red", "red", name="right"),
    answered("blue", "red", name="wrong"),
    answered("anything", name="no golds"),
    answered("", "red", name="empty"),
    answered("1788", "1788", "in 1788", name="number"),
    answered("1788", "1799", name="another number"),
]
EXPECTED = [
    VerdictStatus.CORRECT,
    VerdictStatus.WRONG,
    VerdictStatus.UNSCORED,
    VerdictStatus.WRONG,
    VerdictStatus.CORRECT,
    VerdictStatus.WRONG,
]


def test_grader_gives_no_verdict_for_no_answer(grader: Grader) -> None:
    assert list(grader.grade([])) == []


def test_grader_gives_verdicts_in_order(grader: Grader) -> None:
    verdicts = grader.grade(MIXED)
    assert [v.question_id for v in verdicts] == [a.question_id for a in MIXED]
    assert [v.status for v in verdicts] == EXPECTED
    assert all(v.reason for v in verdicts)


def test_grader_verdict_depends_on_its_answer_only(grader: Grader) -> None:
    together = list(grader.grade(MIXED))
    assert list(grader.grade(MIXED[::-1])) == together[::-1]
    assert [grader.grade([one])[0] for one in MIXED] == together


def test_grader_verdicts_are_by_position(grader: Grader) -> None:
    """Views of a question, and questions of other tasks, may share an id."""
    namesakes = [replace(one, question_id="same") for one in MIXED]
    assert [v.status for v in grader.grade(namesakes)] == EXPECTED


@pytest.mark.parametrize("golds", [(), ("",), (" ", "\n")], ids=["none", "empty", "blank"])
@pytest.mark.parametrize("answer", ["red", "", "unanswerable"])
def test_grader_without_gold_is_unscored(grader: Grader, golds: tuple[str, ...], answer: str) -> None:
    (verdict,) = grader.grade([answered(answer, *golds)])
    assert verdict.status is VerdictStatus.UNSCORED
    assert verdict.reason


def test_grader_accepts_any_gold_answer(grader: Grader) -> None:
    (first, last) = grader.grade([answered("red", "red", "amber"), answered("red", "amber", "red")])
    assert first.status is last.status is VerdictStatus.CORRECT


@pytest.mark.parametrize("field", ["answer", "gold", "question", "all"])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_no_text_makes_it_raise(grader: Grader, field: str, text: str) -> None:
    odd = {
        "answer": answered(text, "red"),
        "gold": answered("red", text),
        "question": answered("red", "red", question=text),
        "all": answered(text, text, "red", question=text),
    }[field]
    (before, verdict, after) = grader.grade([MIXED[0], odd, MIXED[1]])
    assert verdict.question_id == "q"
    assert isinstance(verdict.status, VerdictStatus)
    assert len(verdict.reason.encode()) < 500  # it is stored with every attempt, as UTF-8
    assert [before.status, after.status] == EXPECTED[:2]
