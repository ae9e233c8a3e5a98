"""How much of a gold answer's wording an answer has: measures in [0, 1] on normalised words.

They take :func:`seal_lightning.scoring.graders.normalize.words`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rapidfuzz import fuzz

from seal_lightning.scoring.graders.normalize import FUNCTION_WORDS, alike, is_number


def missing_numbers(gold: Iterable[str], answer: Iterable[str]) -> set[str]:
    """The gold answer's numbers that the answer lacks."""
    return {word for word in gold if is_number(word)} - set(answer)


def recall(question: Iterable[str], gold: Sequence[str], answer: Sequence[str]) -> float:
    """Share of the gold answer's content words with a form in the answer; of all its words when none has content.

    Content words are neither function words nor, in some form, in the question. The gold answer has at least one word.
    """
    asked, said = set(question), set(answer)
    informative = [word for word in gold if word not in FUNCTION_WORDS]
    content = [word for word in informative if not has(asked, word)] or informative or gold
    return sum(has(said, word) for word in content) / len(content)


def precision(question: Iterable[str], gold: Sequence[str], answer: Sequence[str]) -> float:
    """Share of the answer's content words with a form in the gold answer; 0 when none has content."""
    asked, expected = set(question), set(gold)
    content = [word for word in answer if word not in FUNCTION_WORDS and word not in asked]
    return sum(has(expected, word) for word in content) / max(1, len(content))


def has(vocabulary: set[str], word: str) -> bool:
    """Whether some form of the word is there."""
    return word in vocabulary or any(alike(word, other) for other in vocabulary)


def fuzzy(gold: Sequence[str], answer: Sequence[str]) -> float:
    """Similarity of the letters: to the most similar stretch of the answer, or to all of it when that is shorter."""
    # The blanks tie a match to the start of a word: "art" is in "arts", not in "started". The partial ratio would also
    # look for a short answer inside the gold answer, where any letter is found.
    gold_text, answer_text = f" {' '.join(gold)}", f" {' '.join(answer)}"
    ratio = fuzz.partial_ratio if len(answer_text) >= len(gold_text) else fuzz.ratio
    return ratio(gold_text, answer_text) / 100


def f1(gold: Sequence[str], answer: Sequence[str]) -> float:
    """SQuAD's F1 of the words; they are not both without words."""
    num_common = sum((Counter(gold) & Counter(answer)).values())
    return 2 * num_common / (len(gold) + len(answer))
