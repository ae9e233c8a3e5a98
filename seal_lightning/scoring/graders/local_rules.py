"""A grader without a judge: rules on words that agree with GPT-4.1's verdicts better than exact match does.

The paper (§4.1) asks GPT-4.1 whether an answer is right. On 8,000 of that judge's verdicts from the SEAL release, with
thresholds chosen on other passages than those measured, these rules reach Cohen's kappa 0.79; exact match reaches 0.05
and "the gold is in the answer" 0.69. What they get wrong are paraphrases without a common word ("commerce", "trade")
and gold words inside a wrong statement.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import Grader
from seal_lightning.scoring.graders.normalize import words
from seal_lightning.scoring.graders.overlap import f1, fuzzy, missing_numbers, recall


class LocalRules(Grader):
    """Correct is an answer that has all numbers of a gold answer and, by one of three measures, enough of its words.

    The measures, each in [0, 1], on normalised words (:mod:`seal_lightning.scoring.graders.normalize`):

    - recall: the share of the gold answer's content words that the answer has in some form. Content words are those
      that are neither function words nor, in some form, in the question;
    - fuzzy: the similarity of the gold answer's letters to the most similar stretch of the answer that begins with a
      word (rapidfuzz's partial ratio), or to the whole answer when that is the shorter one;
    - F1: the overlap of words, as in SQuAD.

    Any of several gold answers will do. An empty answer is wrong. A gold answer without words, such as "+", must be
    equalled as it is written. A question without a gold answer is unscored. No text makes it raise.

    Args:
        min_recall: In (0, 1].
        min_fuzzy: In (0, 1].
        min_f1: In (0, 1].
        max_chars: ≥ 1; only so many first characters of a question, a gold answer and an answer are read. Answers of
            the paper's exam (64 tokens) stay well below.
    """

    def __init__(
        self, *, min_recall: float = 0.6, min_fuzzy: float = 0.9, min_f1: float = 0.6, max_chars: int = 1000
    ) -> None:
        for name, threshold in (("min_recall", min_recall), ("min_fuzzy", min_fuzzy), ("min_f1", min_f1)):
            if not 0 < threshold <= 1:
                raise ConfigError(f"LocalRules: {name} is {threshold}; it is a share, above 0 and at most 1.")
        if max_chars < 1:
            raise ConfigError(f"LocalRules: max_chars is {max_chars}; at least 1 character must be read.")
        self.min_recall = min_recall
        self.min_fuzzy = min_fuzzy
        self.min_f1 = min_f1
        self.max_chars = max_chars

    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """One verdict an answer, in order; the reason names the rule that fired, or what was missing."""
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
        """Whether the answer matches one gold answer, and why."""
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
            ("F1", f1(gold_words, answer_words), self.min_f1),
        )
        for name, value, threshold in measures:
            if value >= threshold:
                return True, f"{name} {value:.2f}"
        return False, ", ".join(f"{name} {value:.2f} < {threshold:g}" for name, value, threshold in measures)
