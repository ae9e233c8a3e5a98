"""Gold answers of other questions, to ask a judge what it must deny: whoever accepts an answer against any gold answer was
talked into it, and has not compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from seal_lightning.core.seeds import derive_seed
from seal_lightning.scoring.graders.normalize import FUNCTION_WORDS, alike, words

_OTHERS = (
    "a copper mine near the river",
    "twelve wooden barrels",
    "the harbour of Valparaíso",
    "because the bridge had fallen",
    "a violin teacher",
    "Queen Margrethe",
    "to keep the seeds dry in winter",
    "the northern lighthouse",
    "salt and dried fish",
    "a disease of the lungs",
    "under the old theatre",
    "the Treaty of Windsor",
    "an engine driven by steam",
    "sheep farmers in Patagonia",
    "every second Tuesday",
    "green glass bottles",
)
"""Of many kinds, so that every question has one that answers it in no way."""

_DIGITS = re.compile(r"\d+")


def decoy_for(question: str, gold: str, answer: str, number: int = 0) -> str:
    """A gold answer that this is not: where the answer has a number of the gold answer's, that with other numbers; else one
    of another question. (An answer without the number may be right; against the same words with another one it still is.)

    Args:
        question: What was asked.
        gold: What would be right.
        answer: What was answered; a decoy that shares a word with any of the three is passed over.
        number: ≥ 0; another number, another decoy.

    Returns:
        Always the same for the same arguments.
    """
    seed = derive_seed("decoy", question, gold, number)
    if not {*_DIGITS.findall(gold)}.isdisjoint(_DIGITS.findall(answer)):
        return _DIGITS.sub(lambda match: _other_number(match[0], seed), gold)
    taken = [word for text in (question, gold, answer) for word in words(text[:1000]) if word not in FUNCTION_WORDS]
    start = seed % len(_OTHERS)
    ordered = [*_OTHERS[start:], *_OTHERS[:start]]
    return next((decoy for decoy in ordered if not _shares(decoy, taken)), ordered[0])


def _other_number(digits: str, seed: int) -> str:
    """As many digits; of longer ones the first two stay, so that a year stays a year."""
    kept = 2 if len(digits) > 2 else 0
    shift = 1 + seed % 8
    return digits[:kept] + "".join(str((int(digit) + shift) % 10) for digit in digits[kept:])


def _shares(decoy: str, taken: Sequence[str]) -> bool:
    return any(alike(word, other) for word in words(decoy) if word not in FUNCTION_WORDS for other in taken)
