"""How far answers agree with gold answers, and one grader with another; computed by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics.functional.classification import binary_cohen_kappa
from torchmetrics.functional.text import squad

from seal_lightning.core.errors import DataError, shown


def exact_match_and_f1(answer: str, gold_answers: Sequence[str]) -> tuple[float, float]:
    """SQuAD's two measures of one answer, after SQuAD normalisation (arXiv 1606.05250).

    Args:
        answer: What a model wrote; may be empty.
        gold_answers: At least one; each measure takes its best.

    Returns:
        Exact match, 0 or 1, and the F1 of the words, in [0, 1].

    Raises:
        DataError: There is no gold answer.
    """
    if not gold_answers:
        raise DataError(f"exact_match_and_f1: no gold answer to compare {shown(answer)} with; give at least one.")
    answers: dict[str, list[str] | list[int]] = {"text": list(gold_answers)}
    percent = squad({"id": "", "prediction_text": answer}, {"id": "", "answers": answers})
    return float(percent["exact_match"]) / 100, float(percent["f1"]) / 100


def cohen_kappa(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Agreement of two graders beyond chance: (observed − expected) / (1 − expected), Cohen 1960.

    Args:
        ours: One grader's verdicts; True is correct.
        theirs: Another's, on the same answers and in the same order.

    Returns:
        A number in [−1, 1]: 1 is full agreement, 0 what chance would give. NaN when both give one and the same verdict
        to every answer, or there is none: then nothing can be said.

    Raises:
        DataError: The lengths differ.
    """
    if len(ours) != len(theirs):
        raise DataError(f"cohen_kappa: {len(ours)} verdicts against {len(theirs)}; give both graders the same answers.")
    return float(binary_cohen_kappa(torch.tensor(ours, dtype=torch.int), torch.tensor(theirs, dtype=torch.int)))
