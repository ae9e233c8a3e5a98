"""What a search reports of its attempts."""

from __future__ import annotations

import math

import pytest

from seal_lightning.cli.commands.search import is_solved, probability_of_solving
from seal_lightning.core import Attempt, AttemptStatus, ExamScores, QuestionScore, SelfEdit, Verdict, VerdictStatus


def attempt(*statuses: VerdictStatus, examined: bool = True) -> Attempt:
    scores = ExamScores(
        questions=tuple(
            QuestionScore(question_id=str(i), verdict=Verdict(question_id=str(i), status=status))
            for i, status in enumerate(statuses)
        )
    )
    return Attempt(
        attempt_id="a",
        round=0,
        repeat=0,
        seed=0,
        edit=SelfEdit(task_id="t", edit_index=0, text=""),
        status=AttemptStatus.SCORED if examined else AttemptStatus.DIVERGED,
        after=scores if examined else None,
    )


RIGHT, WRONG, UNSCORED = VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED


def test_is_solved_needs_every_question() -> None:
    assert is_solved(attempt(RIGHT, RIGHT))
    for other in (attempt(RIGHT, WRONG), attempt(RIGHT, UNSCORED), attempt(), attempt(RIGHT, examined=False)):
        assert not is_solved(other)


@pytest.mark.parametrize("offset", [0.0, -1_000.0])
def test_probability_of_solving_never_underflows(offset: float) -> None:
    """Relative to what was tried; however unlikely that is, nothing underflows."""
    tried = [attempt(RIGHT), attempt(WRONG), attempt(RIGHT), attempt(examined=False)]
    log_probs = [offset + math.log(p) for p in (0.1, 0.2, 0.3, 0.2)]
    assert probability_of_solving(tried, log_probs) == pytest.approx(0.4 / 0.8)
    assert probability_of_solving(tried[:1], log_probs[:1]) == 1.0
    assert probability_of_solving(tried[1:2], log_probs[1:2]) == 0.0
    with pytest.raises(ValueError, match="zip"):
        probability_of_solving(tried, log_probs[:-1])
