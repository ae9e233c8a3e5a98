"""A grader without a judge: rules on words that agree with GPT-4.1's verdicts better than exact match does.

The paper (§4.1) asks GPT-4.1 whether an answer is right. On 8,000 of that judge's verdicts from the SEAL release, with
thresholds chosen on other passages than those measured, these rules reach Cohen's kappa 0.79; exact match reaches 0.05
and "the gold is in the answer" 0.69. The rules miss paraphrases without a common word ("commerce", "trade") and accept
gold words inside a wrong statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rapidfuzz import fuzz

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus
from seal_lightning.core.errors import require
from seal_lightning.core.interfaces import Grader
from seal_lightning.scoring.graders.answer_words import FUNCTION_WORDS, alike, is_number, words


class LocalRules(Grader):
    """Grader that accepts an answer with all numbers and, by one of three measures, enough words of a gold answer.

    The measures, each in [0, 1], on normalised words (:mod:`seal_lightning.scoring.graders.answer_words`):

    - recall: the share of the gold answer's content words that the answer has in some form. Content words are those
      that are neither function words nor, in some form, in the question;
    - fuzzy: the similarity of the gold answer's letters to the most similar stretch of the answer that begins with a
      word (rapidfuzz's partial ratio), or to the whole answer when that is the shorter one;
    - F1: the overlap of words, as in SQuAD.

    Any of several gold answers counts. An empty answer is wrong. A gold answer without words, such as "+", must be
    equalled as it is written. A question without a gold answer is unscored. No text makes it raise.

    Args:
        min_recall: in (0, 1].
        min_fuzzy: in (0, 1].
        min_f1: in (0, 1].
        max_chars: ≥ 1; characters read of a question, a gold answer and an answer. Answers of the paper's exam
            (64 tokens) stay well below.

    Example:
        >>> from seal_lightning.core import AnsweredQuestion
        >>> answer = AnsweredQuestion(question_id="q", question="When?", gold_answers=("in 1959",), answer="It was 1959.")
        >>> LocalRules().grade([answer])[0].status.value
        'correct'
    """

    def __init__(
        self, *, min_recall: float = 0.6, min_fuzzy: float = 0.9, min_f1: float = 0.6, max_chars: int = 1000
    ) -> None:
        for name, threshold in (("min_recall", min_recall), ("min_fuzzy", min_fuzzy), ("min_f1", min_f1)):
            require(0 < threshold <= 1, f"LocalRules.{name}", threshold, "above 0 and at most 1")
        require(max_chars >= 1, "LocalRules.max_chars", max_chars, "at least 1")
        self.min_recall = min_recall
        self.min_fuzzy = min_fuzzy
        self.min_f1 = min_f1
        self.max_chars = max_chars

    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """Return one verdict per answer, in order; the reason names the rule that fired, or what is missing."""
        return [self._verdict(one) for one in answered]

    def _verdict(self, answered: AnsweredQuestion) -> Verdict:
        golds = [gold for gold in answered.gold_answers if gold.strip()]
        if not golds:
            status, reason = VerdictStatus.UNSCORED, "no gold answer"
        elif not answered.answer.strip():
            status, reason = VerdictStatus.WRONG, "empty answer"
        else:
            findings = [self._compare(answered.question, gold, answered.answer) for gold in golds]
            correct, reason = next((finding for finding in findings if finding[0]), findings[0])
            status = VerdictStatus.CORRECT if correct else VerdictStatus.WRONG
        return Verdict(question_id=answered.question_id, status=status, reason=reason)

    def _compare(self, question: str, gold: str, answer: str) -> tuple[bool, str]:
        """Return whether the answer matches one gold answer, and the reason."""
        gold_words = words(gold[: self.max_chars])
        if not gold_words:
            equal = gold.strip().casefold() == answer.strip().casefold()
            return equal, "equal as written" if equal else "the gold answer has no words, and the answer differs"
        answer_words = words(answer[: self.max_chars])

        missing = sorted(missing_numbers(gold_words, answer_words))
        if missing:
            return False, f"lacks the numbers {', '.join(missing)}"[:120]
        measures = (
            ("recall", recall(words(question[: self.max_chars]), gold_words, answer_words), self.min_recall),
            ("fuzzy", fuzzy(gold_words, answer_words), self.min_fuzzy),
            ("F1", word_f1(gold_words, answer_words), self.min_f1),
        )
        for name, value, threshold in measures:
            if value >= threshold:
                return True, f"{name} {value:.2f}"
        return False, ", ".join(f"{name} {value:.2f} < {threshold:g}" for name, value, threshold in measures)


def missing_numbers(gold: Iterable[str], answer: Iterable[str]) -> set[str]:
    """Return the gold answer's numbers that the answer lacks."""
    return {word for word in gold if is_number(word)} - set(answer)


def recall(question: Iterable[str], gold: Sequence[str], answer: Sequence[str]) -> float:
    """Return the share of the gold answer's content words with a form in the answer; of all words when none has content.

    Content words are neither function words nor, in some form, in the question. The gold answer has at least one word.
    """
    in_question, in_answer = set(question), set(answer)
    informative = [word for word in gold if word not in FUNCTION_WORDS]
    content = [word for word in informative if not _has_form(in_question, word)] or informative or gold
    return sum(_has_form(in_answer, word) for word in content) / len(content)


def fuzzy(gold: Sequence[str], answer: Sequence[str]) -> float:
    """Return the similarity of the letters to the most similar stretch of the answer, or to all of a shorter answer."""
    # The blanks tie a match to the start of a word: "art" is in "arts", not in "started". The partial ratio would also
    # look for a short answer inside the gold answer, where any letter is found.
    gold_text, answer_text = f" {' '.join(gold)}", f" {' '.join(answer)}"
    ratio = fuzz.partial_ratio if len(answer_text) >= len(gold_text) else fuzz.ratio
    return ratio(gold_text, answer_text) / 100


def word_f1(gold: Sequence[str], answer: Sequence[str]) -> float:
    """Return SQuAD's F1 of the words, of which the gold answer or the answer has at least one."""
    num_common = sum((Counter(gold) & Counter(answer)).values())
    return 2 * num_common / (len(gold) + len(answer))


def _has_form(vocabulary: set[str], word: str) -> bool:
    return word in vocabulary or any(alike(word, other) for other in vocabulary)
