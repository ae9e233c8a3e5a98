"""A grader that learned from a judge's verdicts: small enough to ship, local, and closer to the judge than rules on words.

It compares gold answer and answer by their words (:mod:`seal_lightning.grading.answer_measures`) and by what a frozen
sentence encoder makes of them behind the question (:mod:`seal_lightning.grading.token_states`,
:mod:`seal_lightning.grading.comparison`), and gives a calibrated probability. ``tests/benchmarks/learned_grader.py``
trains what is shipped and measures it on passages that were not trained on; the README has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.grading.answer_measures import answer_measures
from seal_lightning.grading.comparison import Compared, Comparison
from seal_lightning.grading.normalize import words
from seal_lightning.grading.token_states import SentenceEncoder
from seal_lightning.seams import Grader
from seal_lightning.types import AnsweredQuestion, Verdict, VerdictStatus

WEIGHTS = Path(__file__).with_name("learned_grader.safetensors")
_BATCH_SIZE = 64

Triple = tuple[str, str, str]
"""Question, gold answer, answer; the two answers have words."""


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
        return probabilities(*_loaded(self.device), triples) if triples else []


@cache
def _loaded(device: torch.device) -> tuple[SentenceEncoder, list[Comparison]]:
    """Encoder and trained comparisons, shared by all graders of a process."""
    comparisons = [comparison.to(device) for comparison in load_comparisons(WEIGHTS)]
    return SentenceEncoder(str(device)), comparisons


def probabilities(
    encoder: SentenceEncoder, comparisons: Sequence[Comparison], triples: Sequence[Triple]
) -> list[float]:
    """The probability, in [0, 1], that each answer is right: of the comparisons' mean log-odds."""
    pairs = {pair: None for question, gold, answer in triples for pair in ((question, gold), (question, answer))}
    states = dict(zip(pairs, encoder.states(list(pairs)), strict=True))
    by_length = sorted(range(len(triples)), key=lambda index: len(states[triples[index][0], triples[index][2]]))
    found = [0.0] * len(triples)
    for start in range(0, len(triples), _BATCH_SIZE):
        chosen = by_length[start : start + _BATCH_SIZE]
        log_odds = _log_odds(comparisons, [triples[index] for index in chosen], states)
        for index, probability in zip(chosen, log_odds.sigmoid().tolist(), strict=True):
            found[index] = probability
    return found


@torch.inference_mode()
def _log_odds(
    comparisons: Sequence[Comparison], triples: Sequence[Triple], states: dict[tuple[str, str], Tensor]
) -> Tensor:
    golds = [states[question, gold] for question, gold, _ in triples]
    answers = [states[question, answer] for question, _, answer in triples]
    batch = Compared.of(golds, answers, [answer_measures(*triple) for triple in triples])
    return torch.stack([comparison(batch) for comparison in comparisons]).mean(0)


def load_comparisons(path: Path) -> list[Comparison]:
    """The trained comparisons of one file, ready to use. Raises :class:`ModelError` where it is not what it should be."""
    try:
        weights = load_file(path)
        names = sorted({name.split(".", 1)[0] for name in weights})
        comparisons = nn.ModuleDict({name: _sized_like(weights, name) for name in names})
        comparisons.load_state_dict(weights)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the weights of LearnedGrader, {path}, cannot be read ({error}); install the package anew"
        ) from error
    return [comparison for comparison in comparisons.eval().values() if isinstance(comparison, Comparison)]


def _sized_like(weights: dict[str, Tensor], name: str) -> Comparison:
    (projected, _), (hidden, _) = weights[f"{name}.project.weight"].shape, weights[f"{name}.compare.weight"].shape
    return Comparison(projected=projected, hidden=hidden)
