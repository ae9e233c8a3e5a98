"""``seal attempts RUN``: list, filter and show what a run has stored. Reads files only, so it needs no model and no torch."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seal_lightning.cli.commands.shown_attempt import attempt_lines
from seal_lightning.core import Attempt, AttemptStatus
from seal_lightning.core.errors import RunError, require, shown
from seal_lightning.storage.attempt_store import AttemptStore, journals
from seal_lightning.storage.journal import to_plain
from seal_lightning.storage.run_dir import RunDir

TABLE_LIMIT = 50
"""Rows of the table when no ``--limit`` is given."""

HEADINGS = ("attempt", "round", "status", "reward", "gain", "tokens", "steps", "seconds", "failure, or the edit")

_MIN_WIDTH = 150
_MAX_KINDS = 20
_TEXT_START = 500
"""Characters of an edit that can matter for a table's cell."""


def main(args: Sequence[str]) -> int:
    """Exit code 0, also when no attempt fits the filters; 1 when what reads the output has gone away."""
    options = _parser().parse_args(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to stop
    try:
        _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's own flush complains
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seal attempts", description="List, filter and show a run's stored attempts.")
    parser.add_argument("run", help="the run directory")
    which = parser.add_argument_group("which attempts")
    which.add_argument("--round", type=int, metavar="N", help="of this round, counted from 0")
    which.add_argument("--task", metavar="ID", help="at this task; a shell pattern ('maud-*') may name several")
    which.add_argument(
        "--status", action="append", choices=[status.value for status in AttemptStatus], help="may be given repeatedly"
    )
    which.add_argument("--min-reward", type=float, metavar="X", help="with a reward of at least X")
    which.add_argument("--max-reward", type=float, metavar="X", help="with a reward of at most X")
    which.add_argument("--limit", type=int, metavar="N", help=f"the first N (default: {TABLE_LIMIT}; all with --json)")
    order = parser.add_argument_group("order (as stored, unless told)")
    order.add_argument("--sort", choices=list(SORT_KEYS), help="what was not measured comes last")
    order.add_argument("--descending", action="store_true", help="highest first; without --sort, last stored first")
    parser.add_argument("--json", action="store_true", help="JSON lines, one attempt a line")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--show", metavar="ATTEMPT_ID", help="one attempt whole")
    instead.add_argument(
        "--repair", action="store_true", help="keep the whole lines of damaged journals, set the rest aside"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in ("round", "limit"):
        value = getattr(options, name)
        require(value is None or value >= 0, f"--{name}", value, "at least 0")
    for name in ("min_reward", "max_reward"):
        value = getattr(options, name)
        require(value is None or not math.isnan(value), f"--{name.replace('_', '-')}", value, "a number")
    run = RunDir.named(options.run, "RUN")
    folders = round_folders(run)
    if options.repair:
        _repair([*folders, *(folder for folder in (run.search, run.sweep) if journals(folder))])
        return
    stored = [attempt for folder in folders for attempt in AttemptStore(folder).all()]
    if not stored:
        raise RunError(f"{options.run} has no attempts: its journals are empty")
    if options.show is not None:
        found = [_find(stored, options.show, options.run)]
    else:
        found = ordered([a for a in stored if _fits(a, options)], options.sort, options.descending)
    if options.json:
        for item in to_plain(found[: options.limit], Attempt):
            sys.stdout.write(json.dumps(item) + "\n")  # ASCII: nothing in it steers a terminal
    elif options.show is not None:
        _print(*attempt_lines(found[0]))
    else:
        _print_table(found[: TABLE_LIMIT if options.limit is None else options.limit], len(found))
        _print(*summary_lines(found, len(stored)))


def round_folders(run: RunDir) -> list[Path]:
    """The folders of a run's rounds that have journals, in order. Raises :class:`RunError` when there are none."""
    if not run.path.is_dir():
        raise RunError(f"{run.path} is no run directory: there is no such folder")
    rounds = {int(path.name[6:]): path for path in run.path.glob("round_*") if path.name[6:].isdecimal()}
    folders = [rounds[index] for index in sorted(rounds) if journals(rounds[index])]
    if not folders:
        raise RunError(f"{run.path} has no attempts: there is no round_*/attempts.rank*.jsonl. Is it a run directory?")
    return folders


def _find(stored: list[Attempt], attempt_id: str, run: str) -> Attempt:
    found = next((attempt for attempt in stored if attempt.attempt_id == attempt_id), None)
    if found is None:
        known = ", ".join(printable(attempt.attempt_id) for attempt in stored[:3])
        raise RunError(f"{run} has no attempt {shown(attempt_id)}; its first are {known}")
    return found


def _fits(attempt: Attempt, options: argparse.Namespace) -> bool:
    lowest, highest = options.min_reward, options.max_reward
    in_bounds = lowest is None and highest is None
    if not in_bounds and attempt.reward is not None:
        in_bounds = (lowest is None or attempt.reward >= lowest) and (highest is None or attempt.reward <= highest)
    return (
        in_bounds
        and options.round in (None, attempt.round)
        and (options.task in (None, attempt.task_id) or fnmatchcase(attempt.task_id, options.task))
        and (options.status is None or attempt.status.value in options.status)
    )


def _seconds(attempt: Attempt) -> float:
    return attempt.adapt_seconds + attempt.examine_seconds


SORT_KEYS: dict[str, Callable[[Attempt], Any]] = {
    "reward": lambda a: a.reward,
    "task": lambda a: a.task_id,
    "seconds": _seconds,
    "tokens": lambda a: a.plan.num_tokens if a.plan else None,
    "round": lambda a: a.round,
}


def ordered(attempts: Sequence[Attempt], sort: str | None, descending: bool) -> list[Attempt]:
    """Sorted, what was not measured last in either direction, and equals by attempt id; as stored without ``sort``."""
    if sort is None:
        return list(attempts[::-1] if descending else attempts)
    by_id = sorted(attempts, key=lambda a: a.attempt_id)
    keyed = [(SORT_KEYS[sort](a), a) for a in by_id]
    known = sorted((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0], reverse=descending)
    return [a for _, a in known] + [a for key, a in keyed if key is None]


def printable(text: str) -> str:
    """A text with all that could steer a terminal escaped: it comes from a model or from data."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _console(min_width: int = 0) -> Console:
    """One that prints what it is given: no markup, no emoji names, no colours for numbers."""
    plain = partial(Console, markup=False, highlight=False, emoji=False)
    return plain(width=max(plain().width, min_width))


def _print(*lines: str) -> None:
    console = _console()
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)


def _print_table(attempts: Sequence[Attempt], num_found: int) -> None:
    """The last column gets what the others leave; a terminal too narrow for a whole attempt id breaks lines itself."""
    rows = [[Text(printable(cell)) for cell in _cells(attempt)] for attempt in attempts]
    widths = [max([len(heading), *(row[i].cell_len for row in rows)]) for i, heading in enumerate(HEADINGS[:-1])]
    others = sum(widths) + 3 * len(HEADINGS) + 1
    log_width = 0 if _console().is_terminal else _MIN_WIDTH  # a file would get 80 columns
    console = _console(max(others + len(HEADINGS[-1]), log_width))
    table = Table()
    for heading in HEADINGS:
        is_text = heading in ("attempt", "status", HEADINGS[-1])
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        row[-1].truncate(console.width - others, overflow="ellipsis")
        table.add_row(*row)
    if rows:
        console.print(table)
    if num_found > len(rows):
        _print(f"… and {num_found - len(rows)} more; --limit {num_found} shows all")


def _cells(attempt: Attempt) -> Iterator[str]:
    plan, gain = attempt.plan, _gain(attempt)
    yield attempt.attempt_id
    yield str(attempt.round)
    yield attempt.status.value
    yield "–" if attempt.reward is None else f"{attempt.reward:.4f}"
    yield "–" if gain is None else f"{gain:+.4f}"
    yield "–" if plan is None else str(plan.num_tokens)
    yield "–" if plan is None else str(plan.num_steps)
    yield f"{_seconds(attempt):.1f}"
    yield (attempt.edit.text if attempt.failure is None else attempt.failure)[:_TEXT_START]


def _gain(attempt: Attempt) -> float | None:
    """After minus before, where the reward kept both."""
    parts = attempt.reward_breakdown
    return parts["after"] - parts["before"] if {"after", "before"} <= parts.keys() else None


def summary_lines(attempts: Sequence[Attempt], num_stored: int) -> Iterator[str]:
    """How many there are of each kind, and the mean rewards."""
    if not attempts:
        yield f"none of the {num_stored} stored attempts fits"
        return
    by_status = Counter(a.status for a in attempts)
    counts = ", ".join(f"{by_status[status]} {status.value}" for status in AttemptStatus if by_status[status])
    of = f" of {num_stored} stored" if num_stored > len(attempts) else ""
    yield f"{len(attempts)}{of} attempt{'s' if len(attempts) > 1 else ''}: {counts}"
    kinds = Counter(
        (a.status is AttemptStatus.UNSCORED, kind) for a in attempts if (kind := a.failure_kind) is not None
    )
    for (unscored, kind), count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:_MAX_KINDS]:
        yield f"  {'unscored' if unscored else 'failed'} {count} ×  {kind}"
    if len(kinds) > _MAX_KINDS:
        yield f"  … and {len(kinds) - _MAX_KINDS} more kinds"
    for index in sorted({a.round for a in attempts}):
        yield f"round {index}: {_mean_reward([a.reward for a in attempts if a.round == index and a.reward is not None])}"


def _mean_reward(rewards: Sequence[float]) -> str:
    if not rewards:
        return "no reward"
    error = f" ± {statistics.stdev(rewards) / math.sqrt(len(rewards)):.4f}" if len(rewards) > 1 else ""
    return f"reward {statistics.fmean(rewards):.4f}{error} (n = {len(rewards)})"


def _repair(folders: Sequence[Path]) -> None:
    for journal in (journal for folder in folders for journal in journals(folder)):
        lost, aside = journal.repair()
        kept = len(journal.read())
        if aside is None:
            _print(f"{journal.path}: not damaged, {kept} attempts")
            continue
        _print(f"{journal.path}: {kept} attempts kept, {lost} lost; the file as it was: {aside}")
        if lost:
            _print("  what is lost is made again by `seal fit --resume RUN`")
