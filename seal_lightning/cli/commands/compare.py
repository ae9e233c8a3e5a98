"""``seal compare A B``: whether two tests of the same questions differ by more than noise. Reads files only, no torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from seal_lightning.core.errors import RunError, require
from seal_lightning.reporting.paired import SCORES, SIGNIFICANT, Comparison, Side, as_json, chosen_side, compared, notes
from seal_lightning.reporting.result_files import StoredResult, read_result, test_files
from seal_lightning.reporting.text import label
from seal_lightning.storage.run_dir import RunDir


def main(args: Sequence[str]) -> int:
    """Exit code 0, whatever the comparison says."""
    options = _parser().parse_args(args)
    for name in ("round", "round_b"):
        value = getattr(options, name)
        require(value is None or value >= 0, f"--{name}", value, "at least 0")
    test_a = _newest_test(options.a, "A")
    test_b = test_a if options.b == options.a else _newest_test(options.b, "B")
    a = chosen_side(test_a, options.condition, options.round, options.name, options.score)
    # What is said of B alone is another condition: A's round and name need not fit it.
    of_its_own = options.condition_b is not None
    b = chosen_side(
        test_b,
        options.condition_b if of_its_own else options.condition,
        options.round_b if of_its_own or options.round_b is not None else options.round,
        options.name_b if of_its_own or options.name_b is not None else options.name,
        options.score,
    )
    found = compared(a, b, options.score, common=options.common)
    if options.json:
        sys.stdout.write(json.dumps(as_json(a, b, options.score, found), indent=1) + "\n")
        return 0
    console = Console()
    for line in report_lines(a, b, options.score, found):
        console.print(Text(line), soft_wrap=True)
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
    which.add_argument("--condition", default="self_edit", help="of both, unless told otherwise (default: %(default)s)")
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


def _newest_test(path: str, what: str) -> StoredResult:
    """Raises :class:`RunError` where there is none."""
    if Path(path).is_file():
        return read_result(Path(path))
    run = RunDir.named(path, what)
    if not run.path.is_dir():
        raise RunError(f"{what}: {run.path} is no run directory and no results file: there is nothing of that name")
    files = test_files(run.path / "results")
    if not files:
        raise RunError(
            f"{what}: {run.path} has no results: there is no results/test.json. `seal test --run {run.path}` makes them"
        )
    return read_result(files[-1])


def report_lines(a: Side, b: Side, score: str, found: Comparison) -> Iterator[str]:
    """The comparison in plain words."""
    digits = 4 if score == "log_prob" else 3
    error = found.difference.standard_error
    shown_error = "" if error is None else f" ± {error:.{digits}f}"
    for name, side, mean in (("A", a, found.mean_a), ("B", b, found.mean_b)):
        of_mean = "" if mean.standard_error is None else f" ± {mean.standard_error:.{digits}f}"
        yield f"{name}      {label(side.label)}: {mean.mean:.{digits}f}{of_mean}   ({label(side.where, 300)})"
    how = f"exact, {found.test.num_signs:,} signs" if found.test.is_exact else f"{found.test.num_signs:,} seeded draws"
    yield (
        f"A − B  {found.difference.mean:+.{digits}f}{shown_error} {score}, p = {found.test.p_value:.4f} "
        f"(sign flips over {found.unit}s: {how}), n = {found.difference.n} {found.unit}s, {found.num_questions} questions"
    )
    yield from (f"note   {note}" for note in notes(a, b, found))
    yield _sentence(found, digits)


def _sentence(found: Comparison, digits: int) -> str:
    mean, p, n = found.difference.mean, found.test.p_value, found.difference.n
    if mean == 0:
        return "A and B score the same in the mean."
    better = "A" if mean > 0 else "B"
    size = f"{better} is better by {abs(mean):.{digits}f} in the mean"
    if found.is_significant and not found.is_of_trainings:
        return (
            f"{size}: over these questions more than noise explains (p < {SIGNIFICANT}), but not tested over trainings."
        )
    if found.is_significant:
        return f"{size}: more than noise explains (p < {SIGNIFICANT})."
    least = 2.0 ** (1 - n)
    few = (
        f" With {n} {found.unit}{'s' * (n > 1)} p cannot be below {least:.3g}, whatever the scores."
        if least >= SIGNIFICANT
        else ""
    )
    return f"{size}, but that is inside the noise (p = {p:.2f}): it shows no difference.{few}"
