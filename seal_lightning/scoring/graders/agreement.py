"""Agreement of answers with gold answers and of two graders; measures by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics.functional.classification import binary_cohen_kappa
from torchmetrics.functional.text import squad

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus
from seal_lightning.core.errors import DataError, shown


def exact_verdict(answered: AnsweredQuestion) -> Verdict:
    """Grade an answer that must be written exactly as a gold answer, such as a grid.

    Returns:
        Correct where the answer or a further attempt equals a gold answer; unscored without a gold answer.
    """
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


def exact_match_and_f1(answer: str, gold_answers: Sequence[str]) -> tuple[float, float]:
    """Return SQuAD's two measures of one answer, after SQuAD normalisation (arXiv 1606.05250).

    Args:
        answer: the model's text; may be empty.
        gold_answers: at least one; each measure takes its best.

    Returns:
        Exact match, 0 or 1, and the F1 of the words, in [0, 1].

    Raises:
        DataError: there is no gold answer.
    """
    if not gold_answers:
        raise DataError(f"exact_match_and_f1: no gold answer to compare {shown(answer)} with; give at least one")
    answers: dict[str, list[str] | list[int]] = {"text": list(gold_answers)}
    percent = squad({"id": "", "prediction_text": answer}, {"id": "", "answers": answers})
    return float(percent["exact_match"]) / 100, float(percent["f1"]) / 100


def cohen_kappa(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Return the agreement of two graders beyond chance: (observed − expected) / (1 − expected), Cohen 1960.

    Args:
        ours: one grader's verdicts; True is correct.
        theirs: the other's, on the same answers and in the same order.

    Returns:
        A number in [−1, 1]: 1 is full agreement, 0 is chance. NaN where both give the same verdict to every answer, or
        there are no answers.

    Raises:
        DataError: the lengths differ.
    """
    if len(ours) != len(theirs):
        raise DataError(f"cohen_kappa: {len(ours)} verdicts against {len(theirs)}; give both graders the same answers")
    return float(binary_cohen_kappa(torch.tensor(ours, dtype=torch.int), torch.tensor(theirs, dtype=torch.int)))
