"""Trains the learned grader and measures it, beside simpler ones, on passages that it was not trained on.

    python tests/benchmarks/learned_grader.py --data ../shared/data/graded_answers.jsonl --seeds 0 1
    python tests/benchmarks/learned_grader.py --data ../shared/data/graded_answers.jsonl --save WEIGHTS.safetensors

The first prints a table: Cohen's kappa with the judge, by folds over titles, and how many adversarial answers are graded
correct. The second trains on all titles and writes the weights that the package ships. A line of the data is
``{"title", "question", "gold", "answer", "correct"}``; ``correct`` is the judge's verdict.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from adversarial_answers import TESTING, TRAINING, AdversarialAnswer, adversarial_answers
from comparison_training import Example, Reader, Recipe, log_odds, train
from safetensors.torch import save_file
from torch.nn import functional

from seal_lightning.grading import LocalRules, cohen_kappa, exact_match_and_f1
from seal_lightning.grading.normalize import words
from seal_lightning.types import AnsweredQuestion, VerdictStatus

NUM_FOLDS = 5
ENSEMBLE = 3
RECIPE = Recipe()

Verdicts = list[bool]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One graded answer of the data."""

    title: str
    question: str
    gold: str
    answer: str
    correct: bool

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.question, self.gold, self.answer


def folds(rows: Sequence[Row], seed: int) -> list[int]:
    """Each row's fold; a title is in one fold, and folds are about equally large."""
    source, sizes, filled = random.Random(seed), Counter(row.title for row in rows), [0.0] * NUM_FOLDS
    fold_of: dict[str, int] = {}
    for title, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[title] = min(range(NUM_FOLDS), key=lambda fold: filled[fold] + 50 * source.random())
        filled[fold_of[title]] += size
    return [fold_of[row.title] for row in rows]


def simple_verdicts(rows: Sequence[Row]) -> dict[str, Verdicts]:
    """Of what needs no training."""
    answered = [
        AnsweredQuestion(question_id="", question=row.question, gold_answers=(row.gold,), answer=row.answer)
        for row in rows
    ]
    return {
        "exact match": [exact_match_and_f1(row.answer, [row.gold])[0] == 1 for row in rows],
        "gold in the answer": [f" {' '.join(words(row.gold))} " in f" {' '.join(words(row.answer))} " for row in rows],
        "LocalRules": [verdict.status is VerdictStatus.CORRECT for verdict in LocalRules().grade(answered)],
    }


def cosine_of_means(examples: Sequence[Example | None]) -> list[float]:
    """Of gold answer and answer, read behind the question; −1 where there are no words."""
    means = [(e.gold.float().mean(0), e.answer.float().mean(0)) if e else None for e in examples]
    return [float(functional.cosine_similarity(*pair, dim=0)) if pair else -1.0 for pair in means]


def best_threshold(values: Sequence[float], correct: Sequence[bool]) -> float:
    """The one of 80 at which Cohen's kappa is highest."""
    return max((i / 80 for i in range(80)), key=lambda least: cohen_kappa([v >= least for v in values], correct))


def attacks(rows: Sequence[Row], wordings: dict, families: int, seed: int) -> list[AdversarialAnswer]:
    questions = list(dict.fromkeys((row.question, row.gold) for row in rows))
    return adversarial_answers(questions, wordings, families_a_question=families, seed=seed)


def examples_of(reader: Reader, found: Sequence[AdversarialAnswer]) -> list[Example]:
    triples = [(attack.question, attack.gold, attack.answer) for attack in found]
    read = reader.read(triples, [False] * len(found), shared=False)
    assert all(read), "every wording has words"
    return [example for example in read if example]


def training_set(reader: Reader, rows: Sequence[Row], seed: int) -> list[Example]:
    """The rows with words, and one adversarial answer a question."""
    graded = reader.read([row.triple for row in rows], [row.correct for row in rows], shared=True)
    return [example for example in graded if example] + examples_of(reader, attacks(rows, dict(TRAINING), 1, seed))


class Tally:
    """Verdicts by grader, fold by fold, and false positives by family of adversarial answers."""

    def __init__(self) -> None:
        self.kappas: dict[str, list[float]] = defaultdict(list)
        self.verdicts: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
        self.accepted: dict[str, dict[str, Verdicts]] = defaultdict(lambda: defaultdict(list))

    def add(self, grader: str, verdicts: Verdicts, rows: Sequence[Row]) -> None:
        correct = [row.correct for row in rows]
        self.kappas[grader].append(cohen_kappa(verdicts, correct))
        self.verdicts[grader] += zip(verdicts, correct, strict=True)

    def add_attacks(self, grader: str, verdicts: Verdicts, found: Sequence[AdversarialAnswer]) -> None:
        for verdict, attack in zip(verdicts, found, strict=True):
            self.accepted[attack.family][grader].append(verdict)

    def show(self) -> None:
        print(
            f"\n| grader | κ of all ({len(self.verdicts['LocalRules'])}) | κ, mean of folds ± SE | − LocalRules ± SE |"
        )
        print("|---|---|---|---|")
        for grader, kappas in self.kappas.items():
            pooled = cohen_kappa(*map(list, zip(*self.verdicts[grader], strict=True)))
            gains = [ours - rules for ours, rules in zip(kappas, self.kappas["LocalRules"], strict=True)]
            print(f"| {grader} | {pooled:.3f} | {with_error(kappas)} | {with_error(gains, sign=True)} |")
        graders = list(next(iter(self.accepted.values())))
        print(f"\n| adversarial answers graded correct | n | {' | '.join(graders)} |\n|---|---|{'---|' * len(graders)}")
        for family, accepted in sorted(self.accepted.items()):
            shares = [f"{100 * statistics.mean(accepted[grader]):.1f} %" for grader in graders]
            print(f"| {family} | {len(accepted[graders[0]])} | {' | '.join(shares)} |")


def with_error(values: Sequence[float], sign: bool = False) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):{'+' if sign else ''}.3f} ± {error:.3f}"


def measure_fold(tally: Tally, reader: Reader, held_in: list[Row], held_out: list[Row], seed: int) -> None:
    examples = training_set(reader, held_in, seed)
    comparisons = [train(examples, RECIPE, ENSEMBLE * seed + member) for member in range(ENSEMBLE)]
    read = reader.read([row.triple for row in held_out], [row.correct for row in held_out], shared=True)
    tested = [example for example in read if example]
    scores = torch.stack([log_odds(comparison, tested) for comparison in comparisons])
    by_measures = log_odds(comparisons[0], tested, measures_only=True)

    def with_wordless(values: torch.Tensor) -> Verdicts:
        found = iter(values.tolist())
        return [next(found) > 0 if example else False for example in read]

    for name, verdicts in simple_verdicts(held_out).items():
        tally.add(name, verdicts, held_out)
    known = reader.read([row.triple for row in held_in], [row.correct for row in held_in], shared=True)
    threshold = best_threshold(cosine_of_means(known), [row.correct for row in held_in])
    tally.add("cosine of the encoder's means", [c >= threshold for c in cosine_of_means(read)], held_out)
    tally.add("logistic regression on measures", with_wordless(by_measures), held_out)
    tally.add("one comparison", with_wordless(scores[0]), held_out)
    tally.add(f"LearnedGrader: {ENSEMBLE} comparisons", with_wordless(scores.mean(0)), held_out)

    found = attacks(held_out, dict(TESTING), 3, seed)
    asked = [Row(title="", question=a.question, gold=a.gold, answer=a.answer, correct=False) for a in found]
    tally.add_attacks("LocalRules", simple_verdicts(asked)["LocalRules"], found)
    attacked = torch.stack([log_odds(comparison, examples_of(reader, found)) for comparison in comparisons])
    tally.add_attacks("LearnedGrader", (attacked.mean(0) > 0).tolist(), found)


def save(reader: Reader, rows: Sequence[Row], path: Path) -> None:
    examples = training_set(reader, rows, seed=0)
    weights = {}
    for member in range(ENSEMBLE):
        comparison = train(examples, RECIPE, member)
        weights |= {f"{member}.{name}": value.half() for name, value in comparison.state_dict().items()}
    save_file(weights, path)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {len(examples)} examples")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the folds and of all training")
    parser.add_argument("--save", type=Path, help="train on all titles and write the weights; no table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [Row(**json.loads(line)) for line in options.data.read_text(encoding="utf-8").splitlines()]
    reader, start = Reader(), time.perf_counter()
    if options.save:
        save(reader, rows, options.save)
        return
    for seed in options.seeds:
        tally, fold_of = Tally(), folds(rows, seed)
        for fold in range(NUM_FOLDS):
            held_in = [row for row, its in zip(rows, fold_of, strict=True) if its != fold]
            held_out = [row for row, its in zip(rows, fold_of, strict=True) if its == fold]
            measure_fold(tally, reader, held_in, held_out, seed)
            print(f"seed {seed}, fold {fold}: {time.perf_counter() - start:.0f} s", flush=True)
        tally.show()


if __name__ == "__main__":
    main()
