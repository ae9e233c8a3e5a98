"""``seal compare A B``: a paired test of two results. Reads files only, no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from seal_lightning.core.errors import RunError, require
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.reporting.document import print_line
from seal_lightning.reporting.paired import (
    SCORES,
    SIGNIFICANT,
    ComparisonSide,
    PairedComparison,
    as_json,
    chosen_side,
    notes,
    paired_comparison,
)
from seal_lightning.reporting.runs import StoredEvaluation, read_evaluation, results_files
from seal_lightning.reporting.text import label
from seal_lightning.storage.run_dir import RunDir


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 0, whatever the comparison says."""
    options = _parser().parse_args(args)
    for name in ("round", "round_b"):
        value = getattr(options, name)
        require(value is None or value >= 0, f"--{name}", value, "at least 0")
    test_a = _newest_test(options.a, "A")
    test_b = test_a if options.b == options.a else _newest_test(options.b, "B")
    a = chosen_side(test_a, options.condition, options.round, options.name, options.score)
    # With a condition of its own, B does not take over A's round and name: they need not fit it.
    other = options.condition_b is not None
    b = chosen_side(
        test_b,
        options.condition_b if other else options.condition,
        options.round_b if other or options.round_b is not None else options.round,
        options.name_b if other or options.name_b is not None else options.name,
        options.score,
    )
    found = paired_comparison(a, b, options.score, common=options.common)
    if options.json:
        sys.stdout.write(json.dumps(as_json(a, b, options.score, found), indent=1) + "\n")
        return 0
    for line in comparison_lines(a, b, options.score, found):
        print_line(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal compare",
        description="Compare two tests question by question: the paired difference A less B, its standard error over tasks "
        "(over sequences, where tasks were learned one after another), and a sign-flip permutation test over them.",
    )
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="a run directory (its newest test) or a results JSON file")
    parser.add_argument("--score", choices=list(SCORES), default="log_prob", help="default: %(default)s")
    which = parser.add_argument_group("which results")
    which.add_argument("--condition", default="self_edit", help="of both sides (default: %(default)s)")
    which.add_argument("--round", type=int, metavar="N", help="rounds the policy was trained for (default: the most)")
    which.add_argument("--name", help="of another writer or an outside adapter")
    which.add_argument(
        "--condition_b", metavar="CONDITION", help="of B, for two conditions of one run: seal compare RUN RUN …"
    )
    which.add_argument("--round_b", type=int, metavar="N", help="of B")
    which.add_argument("--name_b", metavar="NAME", help="of B")
    parser.add_argument("--common", action="store_true", help="where questions differ, compare those that both have")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser


def _newest_test(path: str, side: str) -> StoredEvaluation:
    """Read a results file, or a run's newest one. Raises :class:`RunError` where there is none."""
    if Path(path).is_file():
        return read_evaluation(Path(path))
    run = RunDir.named(path, side)
    files = results_files(run.path / "results")
    if not files:
        raise RunError(f"{side}: {run.path} has no results/test.json. `seal test --run {run.path}` makes it")
    return read_evaluation(files[-1])


def comparison_lines(a: ComparisonSide, b: ComparisonSide, score: str, found: PairedComparison) -> Iterator[str]:
    """Yield the comparison in words."""
    digits = 4 if score == "log_prob" else 3
    for name, side, mean in (("A", a, found.mean_a), ("B", b, found.mean_b)):
        yield f"{name}      {label(side.label)}: {shown_estimate(mean, digits)}   ({label(side.where, 300)})"
    how = f"exact, {found.test.num_signs:,} signs" if found.test.is_exact else f"{found.test.num_signs:,} seeded draws"
    yield (
        f"A − B  {shown_estimate(found.difference, digits, signed=True)} {score}, p = {found.test.p_value:.4f} "
        f"(sign flips over {found.unit}s: {how}), n = {found.difference.n} {found.unit}s, {found.num_questions} questions"
    )
    yield from (f"note   {note}" for note in notes(a, b, found))
    yield _conclusion(found, digits)


def _conclusion(found: PairedComparison, digits: int) -> str:
    mean, p, n = found.difference.mean, found.test.p_value, found.difference.n
    if mean == 0:
        return "A and B score the same in the mean."
    size = f"{'A' if mean > 0 else 'B'} is better by {abs(mean):.{digits}f} in the mean"
    if found.is_significant and not found.is_of_trainings:
        return (
            f"{size}: over these questions more than noise explains (p < {SIGNIFICANT}), but not tested over trainings."
        )
    if found.is_significant:
        return f"{size}: more than noise explains (p < {SIGNIFICANT})."
    least = 2.0 ** (1 - n)
    few = f" With {n} {found.unit}{'s' * (n > 1)} p cannot be below {least:.3g}, whatever the scores."
    return f"{size}, but that is inside the noise (p = {p:.2f}): it shows no difference.{few if least >= SIGNIFICANT else ''}"
