"""Fits the learned grader and measures it, beside simpler ones, on passages that it was not fitted to.

    python tests/benchmarks/learned_grader.py --data ../shared/data/graded_answers.jsonl --seeds 0 1
    python tests/benchmarks/learned_grader.py --data ../shared/data/graded_answers.jsonl --save seal_lightning/scoring/graders

The first prints tables: Cohen's kappa with the judge, by folds over titles, and how many adversarial answers are graded
correct. The second fits to all titles and writes the weights that the package ships. A line of the data is
``{"title", "question", "gold", "answer", "correct"}``; ``correct`` is the judge's verdict.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from adversarial_answers import AdversarialAnswer, adversarial_answers
from torch.nn import functional

from seal_lightning.core import AnsweredQuestion, VerdictStatus
from seal_lightning.scoring.graders import LocalRules, cohen_kappa, exact_match_and_f1
from seal_lightning.scoring.graders.answer_measures import MEASURES, log_odds
from seal_lightning.scoring.graders.learned_grader import WEIGHTS, LearnedWeights, measured
from seal_lightning.scoring.graders.normalize import words
from seal_lightning.scoring.graders.token_states import SentenceEncoder

NUM_FOLDS = 5
RIDGE = 50.0
"""Times half the squared weights of standardised measures, against the summed loss."""
OF_WORDS = MEASURES[:11]
CHUNK = 256

Measured = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One graded answer of the data."""

    title: str
    question: str
    gold: str
    answer: str
    correct: bool


class Measurer:
    """Measures rows; None where the gold answer or the answer has no words."""

    def __init__(self) -> None:
        self._encoder, self.seconds, self.count = SentenceEncoder(torch.device("cpu")), 0.0, 0

    def measure(self, rows: Sequence[Row | AdversarialAnswer]) -> list[Measured | None]:
        with_words = [index for index, row in enumerate(rows) if words(row.gold) and words(row.answer)]
        found: list[Measured | None] = [None] * len(rows)
        start = time.perf_counter()
        for place in range(0, len(with_words), CHUNK):
            chosen = with_words[place : place + CHUNK]
            triples = [(rows[i].question, rows[i].gold, rows[i].answer) for i in chosen]
            for index, one in zip(chosen, measured(self._encoder, triples), strict=True):
                found[index] = one
        self.seconds, self.count = self.seconds + time.perf_counter() - start, self.count + len(with_words)
        return found


def fit(
    measures: Sequence[Measured | None], correct: Sequence[bool], names: Sequence[str] = MEASURES
) -> LearnedWeights:
    """Logistic regression on the named measures, with a ridge; the other weights are 0."""
    pairs = [(one, label) for one, label in zip(measures, correct, strict=True) if one is not None]
    rows = torch.tensor([[one[name] for name in names] for one, _ in pairs], dtype=torch.float64)
    labels = torch.tensor([float(label) for _, label in pairs], dtype=torch.float64)
    mean, scale = rows.mean(0), rows.std(0).clamp(min=1e-6)
    parameters = torch.zeros(len(names) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (rows - mean) / scale @ parameters[1:] + parameters[0]
        fit = functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
        value = (fit + RIDGE * parameters[1:].square().sum() / 2) / len(pairs)
        value.backward()
        return value

    optimizer.step(loss)
    weights = parameters.detach()[1:] / scale
    by_name = dict.fromkeys(MEASURES, 0.0) | dict(zip(names, weights.tolist(), strict=True))
    return LearnedWeights(intercept=float(parameters.detach()[0] - weights @ mean), weights=by_name)


def scores(learned: LearnedWeights, measures: Sequence[Measured | None]) -> list[float]:
    """Log-odds; what has no words is wrong for certain."""
    return [-50.0 if one is None else log_odds(learned.weights, learned.intercept, one) for one in measures]


def simple_verdicts(rows: Sequence[Row | AdversarialAnswer]) -> dict[str, list[bool]]:
    """Of what needs no fitting."""
    answered = [
        AnsweredQuestion(question_id="", question=r.question, gold_answers=(r.gold,), answer=r.answer) for r in rows
    ]
    return {
        "exact match": [exact_match_and_f1(row.answer, [row.gold])[0] == 1 for row in rows],
        "gold in the answer": [f" {' '.join(words(r.gold))} " in f" {' '.join(words(r.answer))} " for r in rows],
        "LocalRules": [verdict.status is VerdictStatus.CORRECT for verdict in LocalRules().grade(answered)],
    }


def folds(rows: Sequence[Row], seed: int) -> list[int]:
    """Each row's fold; a title is in one fold, and folds are about equally large."""
    source, sizes, filled = random.Random(seed), Counter(row.title for row in rows), [0.0] * NUM_FOLDS
    fold_of: dict[str, int] = {}
    for title, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[title] = min(range(NUM_FOLDS), key=lambda fold: filled[fold] + 50 * source.random())
        filled[fold_of[title]] += size
    return [fold_of[row.title] for row in rows]


def held_out_scores(
    rows: Sequence[Row], measures: Sequence[Measured | None], fold_of: Sequence[int]
) -> dict[str, list[float]]:
    """Log-odds of each row by each regression fitted to the other folds."""
    regressions = {
        "logistic regression: cosine of the encoder's means": ("alike_as_a_whole",),
        "logistic regression: words": OF_WORDS,
        "logistic regression: encoder's states": MEASURES[11:],
        "LearnedGrader: both": MEASURES,
    }
    found = {name: [0.0] * len(rows) for name in regressions}
    for fold in range(NUM_FOLDS):
        held_in = [index for index, its in enumerate(fold_of) if its != fold]
        held_out = [index for index, its in enumerate(fold_of) if its == fold]
        for name, chosen in regressions.items():
            learned = fit([measures[i] for i in held_in], [rows[i].correct for i in held_in], chosen)
            for index, score in zip(held_out, scores(learned, [measures[i] for i in held_out]), strict=True):
                found[name][index] = score
    return found


def show_agreement(rows: Sequence[Row], fold_of: Sequence[int], measures: Sequence[Measured | None]) -> None:
    correct = [row.correct for row in rows]
    by_regression = held_out_scores(rows, measures, fold_of)
    verdicts = simple_verdicts(rows) | {name: [s > 0 for s in found] for name, found in by_regression.items()}

    def by_fold(grader: str) -> list[float]:
        chosen = [[i for i, its in enumerate(fold_of) if its == fold] for fold in range(NUM_FOLDS)]
        return [cohen_kappa([verdicts[grader][i] for i in some], [correct[i] for i in some]) for some in chosen]

    print(f"\n| grader | κ of all {len(rows)} | κ, mean of folds ± SE | each fold | − LocalRules ± SE | log-loss |")
    print("|---|---|---|---|---|---|")
    for grader in verdicts:
        kappas = by_fold(grader)
        gains = [ours - rules for ours, rules in zip(kappas, by_fold("LocalRules"), strict=True)]
        loss = "–"
        if grader in by_regression:
            labels = torch.tensor([float(label) for label in correct])
            loss = f"{functional.binary_cross_entropy_with_logits(torch.tensor(by_regression[grader]), labels):.4f}"
        each, pooled = " ".join(f"{kappa:.3f}" for kappa in kappas), cohen_kappa(verdicts[grader], correct)
        print(f"| {grader} | {pooled:.3f} | {with_error(kappas)} | {each} | {with_error(gains)} | {loss} |")
    show_calibration(by_regression["LearnedGrader: both"], correct)


def show_calibration(found: Sequence[float], correct: Sequence[bool]) -> None:
    bins: dict[int, list[bool]] = defaultdict(list)
    for score, label in zip(found, correct, strict=True):
        bins[min(4, int(5 * torch.tensor(score).sigmoid()))].append(label)
    told = [
        f"{place / 5:.1f}–{(place + 1) / 5:.1f}: {statistics.mean(its):.2f} of {len(its)}"
        for place, its in sorted(bins.items())
    ]
    print(f"\nCorrect for the judge, by the probability told: {'; '.join(told)}")


def show_attacks(
    rows: Sequence[Row], fold_of: Sequence[int], measures: Sequence[Measured | None], measurer: Measurer
) -> None:
    """Adversarial answers to a fold's questions, graded by what was fitted to the others."""
    accepted: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for fold in range(NUM_FOLDS):
        held_in = [index for index, its in enumerate(fold_of) if its != fold]
        learned = fit([measures[i] for i in held_in], [rows[i].correct for i in held_in])
        asked = list(dict.fromkeys((r.question, r.gold) for r, its in zip(rows, fold_of, strict=True) if its == fold))
        attacks = adversarial_answers(asked, families_a_question=4, seed=fold)
        ours = [score > 0 for score in scores(learned, measurer.measure(attacks))]
        for attack, rules, own in zip(attacks, simple_verdicts(attacks)["LocalRules"], ours, strict=True):
            accepted[attack.family].append((rules, own))
    accepted["all but hedge"] = [pair for family, pairs in accepted.items() if family != "hedge" for pair in pairs]
    print("\n| adversarial answers graded correct | n | LocalRules | LearnedGrader |\n|---|---|---|---|")
    for family, pairs in sorted(accepted.items()):
        rules, own = (100 * statistics.mean(verdicts) for verdicts in zip(*pairs, strict=True))
        print(f"| {family} | {len(pairs)} | {rules:.2f} % | {own:.2f} % |")


def with_error(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the folds")
    parser.add_argument("--save", type=Path, help="fit to all titles and write the weights into this folder; no table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [Row(**json.loads(line)) for line in options.data.read_text(encoding="utf-8").splitlines()]
    measurer = Measurer()
    measures = measurer.measure(rows)
    print(f"{measurer.count / measurer.seconds:.0f} answers/s on one thread")
    if options.save:
        learned = fit(measures, [row.correct for row in rows])
        rounded = {name: round(weight, 4) for name, weight in learned.weights.items()}
        text = json.dumps({"intercept": round(learned.intercept, 4), "weights": rounded}, indent=2)
        (options.save / WEIGHTS.name).write_text(text + "\n", encoding="utf-8")
        return
    for seed in options.seeds:
        print(f"\nFolds of seed {seed}")
        show_agreement(rows, folds(rows, seed), measures)
    show_attacks(rows, folds(rows, options.seeds[0]), measures, measurer)


if __name__ == "__main__":
    main()
