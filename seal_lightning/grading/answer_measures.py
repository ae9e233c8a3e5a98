"""What the words of a question, a gold answer and an answer tell about whether the answer is right."""

from __future__ import annotations

import math

from seal_lightning.grading.normalize import is_number, words
from seal_lightning.grading.overlap import f1, fuzzy, missing_numbers, precision, recall

NUM_MEASURES = 11


def answer_measures(question: str, gold: str, answer: str) -> tuple[float, ...]:
    """Numbers of the size of one, for a learned grader to weigh.

    Args:
        question: What was asked.
        gold: What would be right; has at least one word.
        answer: What was answered; has at least one word.

    Returns:
        Recall, similarity of letters, F1, whether numbers are missing, whether the local rules' thresholds are met,
        precision, recall of the answer's first line, share of the gold answer's words, the logarithms of both lengths,
        and, where the gold answer has a number, how many others the answer brings, at most 3.
    """
    first_line = words(answer.strip().split("\n", 1)[0])
    asked, expected, said = words(question), words(gold), words(answer)
    overlap = recall(asked, expected, said), fuzzy(expected, said), f1(expected, said)
    missing = bool(missing_numbers(expected, said))
    rules = not missing and any(value >= least for value, least in zip(overlap, (0.6, 0.9, 0.6), strict=True))
    new_numbers = {word for word in said if is_number(word)} - set(expected) - set(asked)
    return (
        *overlap,
        float(missing),
        float(rules),
        precision(asked, expected, said),
        recall(asked, expected, first_line),
        len(set(expected) & set(said)) / len(set(expected)),
        math.log1p(len(expected)),
        math.log1p(len(said)),
        float(min(3, len(new_numbers))) if any(map(is_number, expected)) else 0.0,
    )
