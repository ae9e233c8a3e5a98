"""Answers that are right or wrong as they are written, such as grids: no judge is needed."""

from __future__ import annotations

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus


def exact_verdict(answered: AnsweredQuestion) -> Verdict:
    """Correct when the answer, or a further attempt, equals a gold answer; unscored where there is no gold answer."""
    attempts = (answered.answer, *answered.further_answers)
    if not answered.gold_answers:
        status, reason = VerdictStatus.UNSCORED, "no gold answer"
    elif any(attempt in answered.gold_answers for attempt in attempts):
        first = answered.answer in answered.gold_answers
        status, reason = VerdictStatus.CORRECT, "first attempt" if first else "further attempt"
    elif answered.num_invalid == answered.num_views:
        status, reason = VerdictStatus.WRONG, "no answer could be read"
    else:
        status, reason = VerdictStatus.WRONG, "no attempt is equal"
    return Verdict(question_id=answered.question_id, status=status, reason=reason)
