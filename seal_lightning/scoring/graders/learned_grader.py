"""A grader that learned from a judge's verdicts: small, local, and with a calibrated probability.

A logistic regression on :mod:`seal_lightning.scoring.graders.answer_measures`: of words, and of what a frozen sentence
encoder makes of gold answer and answer behind the question (:mod:`seal_lightning.scoring.graders.token_states`). Its
weights, in ``learned_grader.json``, can be read. ``tests/benchmarks/learned_grader.py`` makes them, and measures them
on passages that were not trained on; the README has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from seal_lightning.core import AnsweredQuestion, Verdict, VerdictStatus
from seal_lightning.core.errors import ConfigError, ModelError
from seal_lightning.core.interfaces import Grader
from seal_lightning.scoring.graders.answer_measures import MEASURES, log_odds, state_measures, word_measures
from seal_lightning.scoring.graders.normalize import words
from seal_lightning.scoring.graders.token_states import SentenceEncoder

WEIGHTS = Path(__file__).with_name("learned_grader.json")
_MOST_AT_ONCE = 512  # whose states are held

Triple = tuple[str, str, str]
"""Question, gold answer, answer; the two answers have words."""


class LearnedWeights(BaseModel):
    """The logistic regression as it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intercept: FiniteFloat
    weights: dict[str, FiniteFloat]
    """By the names of ``MEASURES``."""

    @classmethod
    def read(cls, path: Path) -> LearnedWeights:
        """Raises :class:`ModelError` where the file is not what it should be."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelError(
                f"LearnedGrader: its weights, {path}, cannot be read ({error}); install the package anew"
            ) from error
        if set(found.weights) != set(MEASURES):
            raise ModelError(f"LearnedGrader: its weights, {path}, are for other measures; install the package anew")
        return found


class LearnedGrader(Grader):
    """Correct is an answer whose probability of being judged so reaches a threshold.

    Any of several gold answers will do. An empty answer, or one without words, is wrong. A gold answer without words, such
    as "+", must be equalled as it is written. A question without a gold answer is unscored. No text makes it raise.

    Args:
        min_probability: In (0, 1); calibrated, so 0.5 agrees with the judge most often. Higher accepts less.
        device: Where the encoder runs, as torch names it.
        max_chars: ≥ 1; only so many first characters of a question, a gold answer and an answer are read.

    Raises:
        ModelError: At the first answer to be graded, where the encoder is not in the cache and cannot be fetched.
    """

    def __init__(self, *, min_probability: float = 0.5, device: str = "cpu", max_chars: int = 1000) -> None:
        if not 0 < min_probability < 1:
            raise ConfigError(f"LearnedGrader: min_probability is {min_probability}; it lies between 0 and 1.")
        if max_chars < 1:
            raise ConfigError(f"LearnedGrader: max_chars is {max_chars}; at least 1 character must be read.")
        self.min_probability = min_probability
        self.max_chars = max_chars
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ConfigError(f"LearnedGrader: device is {device!r}; torch knows 'cpu', 'cuda', 'cuda:1' …") from error

    def grade(self, answered: Sequence[AnsweredQuestion]) -> Sequence[Verdict]:
        """One verdict an answer, in order; the reason has the probability."""
        triples = [self._triples(one) for one in answered]
        found = iter(self._probabilities([triple for several in triples for triple in several]))
        best = [max((next(found) for _ in several), default=None) for several in triples]
        return [self._verdict(one, probability) for one, probability in zip(answered, best, strict=True)]

    def _triples(self, answered: AnsweredQuestion) -> list[Triple]:
        """What is to be compared: the answer with each gold answer, where there are words."""
        question, answer, *golds = (
            text[: self.max_chars] for text in (answered.question, answered.answer, *answered.gold_answers)
        )
        return [(question, gold, answer) for gold in golds if words(gold) and words(answer)]

    def _verdict(self, answered: AnsweredQuestion, probability: float | None) -> Verdict:
        if not any(gold.strip() for gold in answered.gold_answers):
            status, reason = VerdictStatus.UNSCORED, "no gold answer"
        elif self._is_as_written(answered):
            status, reason = VerdictStatus.CORRECT, "equal as written"
        elif probability is None:
            status, reason = VerdictStatus.WRONG, "no words to compare"
        else:
            status = VerdictStatus.CORRECT if probability >= self.min_probability else VerdictStatus.WRONG
            reason = f"probability {probability:.2f}"
        return Verdict(question_id=answered.question_id, status=status, reason=reason)

    def _is_as_written(self, answered: AnsweredQuestion) -> bool:
        """Whether the answer equals a gold answer that has no words."""
        answer = answered.answer.strip().casefold()
        golds = (gold for gold in answered.gold_answers if gold.strip() and not words(gold[: self.max_chars]))
        return any(gold.strip().casefold() == answer for gold in golds)

    def _probabilities(self, triples: Sequence[Triple]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(triples), _MOST_AT_ONCE):
            learned, measures = _weights(), measured(_encoder(self.device), triples[start : start + _MOST_AT_ONCE])
            found += [_logistic(log_odds(learned.weights, learned.intercept, one)) for one in measures]
        return found


def _logistic(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -50.0), 50.0)))


def measured(encoder: SentenceEncoder, triples: Sequence[Triple]) -> list[Mapping[str, float]]:
    """All measures of each answer, in order; a question with a text is encoded once."""
    pairs = list(dict.fromkeys((question, text) for question, gold, answer in triples for text in (gold, answer)))
    states = dict(zip(pairs, encoder.states(pairs), strict=True))
    return [
        word_measures(question, gold, answer) | state_measures(states[question, gold], states[question, answer])
        for question, gold, answer in triples
    ]


@cache
def _encoder(device: torch.device) -> SentenceEncoder:
    """Shared by all graders of a process."""
    return SentenceEncoder(device)


@cache
def _weights() -> LearnedWeights:
    return LearnedWeights.read(WEIGHTS)
