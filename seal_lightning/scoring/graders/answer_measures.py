"""What tells whether an answer is right: measures of its words, and of what a sentence encoder makes of them.

None of them knows a question or a topic, so that weights learned on some passages hold on others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from seal_lightning.scoring.graders.normalize import is_number, words
from seal_lightning.scoring.graders.overlap import f1, fuzzy, missing_numbers, precision, recall

MEASURES = (
    "recall",
    "fuzzy",
    "f1",
    "lacks_numbers",
    "meets_rules",
    "precision",
    "first_line_recall",
    "share_of_gold",
    "log_gold_words",
    "log_answer_words",
    "new_numbers",
    "found_on_average",
    "found_at_least",
    "backed_on_average",
    "alike_as_a_whole",
)
"""The names, in order; the last four are of the encoder's states."""


def word_measures(question: str, gold: str, answer: str) -> dict[str, float]:
    """The measures of the words.

    Args:
        question: What was asked.
        gold: What would be right; has at least one word.
        answer: What was answered; has at least one word.

    Returns:
        By name, of the size of one. ``meets_rules`` is what the local rules say with their default thresholds,
        ``new_numbers`` how many numbers, at most 3, the answer brings where the gold answer has others.
    """
    asked, expected, said = words(question), words(gold), words(answer)
    overlap = {"recall": recall(asked, expected, said), "fuzzy": fuzzy(expected, said), "f1": f1(expected, said)}
    lacks = bool(missing_numbers(expected, said))
    enough = any(overlap[name] >= least for name, least in (("recall", 0.6), ("fuzzy", 0.9), ("f1", 0.6)))
    new_numbers = {word for word in said if is_number(word)} - set(expected) - set(asked)
    return {
        **overlap,
        "lacks_numbers": float(lacks),
        "meets_rules": float(enough and not lacks),
        "precision": precision(asked, expected, said),
        "first_line_recall": recall(asked, expected, words(answer.strip().split("\n", 1)[0])),
        "share_of_gold": len(set(expected) & set(said)) / len(set(expected)),
        "log_gold_words": math.log1p(len(expected)),
        "log_answer_words": math.log1p(len(said)),
        "new_numbers": float(min(3, len(new_numbers))) if any(map(is_number, expected)) else 0.0,
    }


@torch.inference_mode()
def state_measures(gold: Tensor, answer: Tensor) -> dict[str, float]:
    """How well the encoder's states match, token by token as in BERTScore (Zhang et al., arXiv 1904.09675).

    Args:
        gold: The states of the gold answer's tokens, (tokens, size), at least one.
        answer: Those of the answer's.

    Returns:
        By name, in [−1, 1]: the mean and the least of each gold token's best cosine, the mean of each answer token's,
        and the cosine of both texts' means.
    """
    cosines = functional.normalize(gold, dim=-1) @ functional.normalize(answer, dim=-1).T
    found, backed = cosines.amax(1), cosines.amax(0)
    return {
        "found_on_average": float(found.mean()),
        "found_at_least": float(found.min()),
        "backed_on_average": float(backed.mean()),
        "alike_as_a_whole": float(functional.cosine_similarity(gold.mean(0), answer.mean(0), dim=0)),
    }


def log_odds(weights: Mapping[str, float], intercept: float, measures: Mapping[str, float]) -> float:
    """A logistic regression's: the intercept plus the weighted measures."""
    return intercept + sum(weights[name] * measures[name] for name in MEASURES)
