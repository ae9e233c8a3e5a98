"""Trains :class:`Comparison` on a judge's verdicts, and on adversarial answers to the same questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from seal_lightning.grading.answer_measures import answer_measures
from seal_lightning.grading.comparison import Compared, Comparison, alignments
from seal_lightning.grading.normalize import words
from seal_lightning.grading.token_states import SentenceEncoder


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a comparison is trained."""

    num_epochs: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 48
    projected: int = 64
    hidden: int = 64
    dropout: float = 0.4
    ridge: float = 50.0
    """Times half the squared weights of the logistic regression, against the summed loss."""
    leniency: float = 1.0
    """Standard deviation of a question's own intercept (log-odds): a judge is lenient with some questions, and what
    explains that is not to be learned from their wording. Left out when a trained comparison is used."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A graded answer as a comparison reads it; gold answer and answer have words."""

    gold: Tensor
    answer: Tensor
    measures: tuple[float, ...]
    correct: bool
    question: str | None
    """Whose intercept it shares; None: none."""


class Reader:
    """Makes examples, encoding each different pair once."""

    def __init__(self) -> None:
        self._encoder = SentenceEncoder()
        self._states: dict[tuple[str, str], Tensor] = {}

    def read(
        self, triples: Sequence[tuple[str, str, str]], correct: Sequence[bool], shared: bool
    ) -> list[Example | None]:
        """Of (question, gold answer, answer); None where one has no words. ``shared``: questions have intercepts."""
        texts = [(question, text) for question, gold, answer in triples for text in (gold, answer)]
        missing = [pair for pair in dict.fromkeys(texts) if pair not in self._states]
        # Half precision halves the memory; what is lost is below the noise of dropout.
        self._states.update(zip(missing, (states.half() for states in self._encoder.states(missing)), strict=True))
        return [
            Example(
                gold=self._states[question, gold],
                answer=self._states[question, answer],
                measures=answer_measures(question, gold, answer),
                correct=label,
                question=question if shared else None,
            )
            if words(gold) and words(answer)
            else None
            for (question, gold, answer), label in zip(triples, correct, strict=True)
        ]


def train(examples: Sequence[Example], recipe: Recipe, seed: int) -> Comparison:
    """A comparison fitted to the examples: first its logistic regression, which then stays, then the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        comparison = Comparison(projected=recipe.projected, hidden=recipe.hidden, dropout=recipe.dropout)
        _fit_measured(comparison, examples, recipe)
        _fit_tokens(comparison, examples, recipe, random.Random(seed))
    return comparison.eval()


@torch.inference_mode()
def log_odds(comparison: Comparison, examples: Sequence[Example], measures_only: bool = False) -> Tensor:
    """Of each example, in order."""
    found = torch.empty(len(examples))
    for chosen in _batches(examples, 128):
        batch = _compared([examples[index] for index in chosen])
        found[chosen] = comparison.by_measures(batch) if measures_only else comparison(batch)
    return found


def _fit_measured(comparison: Comparison, examples: Sequence[Example], recipe: Recipe) -> None:
    with torch.inference_mode():
        rows = torch.empty(len(examples), len(comparison.mean))
        for chosen in _batches(examples, 128):
            batch = _compared([examples[index] for index in chosen])
            rows[chosen] = torch.cat([batch.measures, alignments(batch)], dim=1)
    rows, labels = rows.clone(), torch.tensor([float(example.correct) for example in examples])
    comparison.mean.copy_(rows.mean(0))
    comparison.scale.copy_(rows.std(0).clamp(min=1e-3))
    standardised = (rows - comparison.mean) / comparison.scale
    optimizer = torch.optim.LBFGS(comparison.measured.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = functional.binary_cross_entropy_with_logits(comparison.measured(standardised).squeeze(1), labels)
        value = fit + recipe.ridge * comparison.measured.weight.square().sum() / (2 * len(examples))
        value.backward()
        return value

    optimizer.step(loss)
    comparison.measured.requires_grad_(False)


def _fit_tokens(comparison: Comparison, examples: Sequence[Example], recipe: Recipe, order: random.Random) -> None:
    places = {name: place for place, name in enumerate(sorted({e.question for e in examples if e.question}), 1)}
    intercepts = nn.Parameter(torch.zeros(len(places) + 1))  # the first is that of answers without one: it stays 0
    of_question = torch.tensor([places.get(example.question or "", 0) for example in examples])
    labels = torch.tensor([float(example.correct) for example in examples])
    weights = [weight for weight in comparison.parameters() if weight.requires_grad]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": [intercepts], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    num_steps = recipe.num_epochs * -(-len(examples) // recipe.batch_size)
    rates = [recipe.learning_rate, 50 * recipe.learning_rate]  # an intercept meets few of an epoch's steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=num_steps + 1, pct_start=0.1)
    comparison.train()
    for _ in range(recipe.num_epochs):
        for chosen in _batches(examples, recipe.batch_size, order):
            own = intercepts[of_question[chosen]] * (of_question[chosen] > 0)
            scores = comparison(_compared([examples[index] for index in chosen])) + own
            loss = functional.binary_cross_entropy_with_logits(scores, labels[chosen])
            loss = loss + intercepts.square().sum() / (2 * recipe.leniency**2 * len(examples))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _compared(examples: Sequence[Example]) -> Compared:
    return Compared.of([e.gold for e in examples], [e.answer for e in examples], [e.measures for e in examples])


def _batches(examples: Sequence[Example], size: int, order: random.Random | None = None) -> list[list[int]]:
    """Indices of answers of similar length; shuffled within a window of 40 batches, when there is an order."""
    indices = list(range(len(examples)))
    window = len(indices)
    if order is not None:
        order.shuffle(indices)
        window = 40 * size
    batches = []
    for start in range(0, len(indices), window):
        near = sorted(indices[start : start + window], key=lambda index: len(examples[index].answer))
        batches += [near[place : place + size] for place in range(0, len(near), size)]
    if order is not None:
        order.shuffle(batches)
    return batches
