"""``seal attempts RUN``: list, filter and show what a run has stored. Reads files only, no torch."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from seal_lightning.core import Attempt, AttemptStatus, AuxiliaryExam, ExamScores, QuestionScore
from seal_lightning.core.errors import RunError, require, shown
from seal_lightning.core.estimates import estimate, shown_estimate
from seal_lightning.reporting.document import Table, print_line, show_table
from seal_lightning.reporting.runs import round_folders
from seal_lightning.reporting.text import escape_invisible
from seal_lightning.storage.attempt_store import AttemptStore, journals
from seal_lightning.storage.journal import to_plain
from seal_lightning.storage.run_dir import RunDir

TABLE_LIMIT = 50
"""Rows of the table without ``--limit``."""
HEADINGS = ("attempt", "round", "status", "reward", "gain", "tokens", "steps", "seconds", "failure, or the edit")

_MAX_KINDS = 20
_MAX_TEXT = 60
"""Characters of an edit in a table's cell."""


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 1 when the reader of the output has gone away, else 0."""
    options = _parser().parse_args(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack Unicode
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
    order = parser.add_argument_group("order (default: as stored)")
    order.add_argument("--sort", choices=list(SORT_KEYS), help="unknown values come last")
    order.add_argument("--descending", action="store_true", help="highest first; without --sort, last stored first")
    parser.add_argument("--json", action="store_true", help="JSON lines, one attempt per line")
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
    folders = [folder for _, folder in round_folders(run)]
    if options.repair:
        for folder in (*folders, run.search, run.sweep):
            _repair(journals(folder))
        return
    stored = stored_attempts(run)
    if options.show is not None:
        found = [find_attempt(run, options.show)]
    else:
        found = ordered([a for a in stored if _fits(a, options)], options.sort, options.descending)
    if options.json:
        for item in to_plain(found[: options.limit], Attempt):
            sys.stdout.write(json.dumps(item) + "\n")  # ASCII: nothing in it steers a terminal
        return
    if options.show is None:
        limit = TABLE_LIMIT if options.limit is None else options.limit
        if rows := tuple(_cells(attempt) for attempt in found[:limit]):
            show_table(Table(title="", headings=HEADINGS, rows=rows, text_columns=(0, 2, len(HEADINGS) - 1)))
        if len(found) > limit:
            print_line(f"… and {len(found) - limit} more; --limit {len(found)} shows all")
    for line in attempt_lines(found[0]) if options.show is not None else summary_lines(found, len(stored)):
        print_line(line)


def stored_attempts(run: RunDir) -> list[Attempt]:
    """Return a run's attempts in the order of rounds, ranks and storing. Raises :class:`RunError` without any."""
    stored = [attempt for _, folder in round_folders(run) for attempt in AttemptStore(folder).all()]
    if not stored:
        raise RunError(f"{run.path} has no attempts: its journals are empty")
    return stored


def find_attempt(run: RunDir, attempt_id: str) -> Attempt:
    """Return the stored attempt of this id. Raises :class:`RunError` where there is none."""
    stored = stored_attempts(run)
    found = next((attempt for attempt in stored if attempt.attempt_id == attempt_id), None)
    if found is None:
        known = ", ".join(escape_invisible(attempt.attempt_id, keep="") for attempt in stored[:3])
        raise RunError(f"{run.path} has no attempt {shown(attempt_id)}; its first are {known}")
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


SORT_KEYS: dict[str, Callable[[Attempt], Any]] = {
    "reward": lambda a: a.reward,
    "task": lambda a: a.task_id,
    "seconds": lambda a: a.adapt_seconds + a.examine_seconds,
    "tokens": lambda a: a.plan.num_tokens if a.plan else None,
    "round": lambda a: a.round,
}


def ordered(attempts: Sequence[Attempt], sort: str | None, descending: bool) -> list[Attempt]:
    """Sort attempts, unknown values last in either direction, and equals by attempt id; as stored without ``sort``."""
    if sort is None:
        return list(attempts[::-1] if descending else attempts)
    by_id = sorted(attempts, key=lambda a: a.attempt_id)
    keyed = [(SORT_KEYS[sort](a), a) for a in by_id]
    known = sorted((pair for pair in keyed if pair[0] is not None), key=lambda pair: pair[0], reverse=descending)
    return [a for _, a in known] + [a for key, a in keyed if key is None]


def _cells(attempt: Attempt) -> tuple[str, ...]:
    plan, parts = attempt.plan, attempt.reward_breakdown
    gain = parts["after"] - parts["before"] if {"after", "before"} <= parts.keys() else None
    text = escape_invisible((attempt.edit.text if attempt.failure is None else attempt.failure)[:500], keep="")
    return (
        attempt.attempt_id,
        str(attempt.round),
        attempt.status.value,
        "–" if attempt.reward is None else f"{attempt.reward:.4f}",
        "–" if gain is None else f"{gain:+.4f}",
        "–" if plan is None else str(plan.num_tokens),
        "–" if plan is None else str(plan.num_steps),
        f"{attempt.adapt_seconds + attempt.examine_seconds:.1f}",
        text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…",
    )


def summary_lines(attempts: Sequence[Attempt], num_stored: int) -> Iterator[str]:
    """Yield the number of attempts of each kind, and the mean rewards by round."""
    if not attempts:
        yield f"none of the {num_stored} stored attempts matches"
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
        rewards = [a.reward for a in attempts if a.round == index and a.reward is not None]
        mean = f"reward {shown_estimate(estimate(rewards), 4)} (n = {len(rewards)})" if rewards else "no reward"
        yield f"round {index}: {mean}"


def _repair(damaged: Sequence[Any]) -> None:
    for journal in damaged:
        lost, aside = journal.repair()
        kept = len(journal.read())
        if aside is None:
            print_line(f"{journal.path}: not damaged, {kept} attempts")
            continue
        print_line(f"{journal.path}: {kept} attempts kept, {lost} lost; the file as it was: {aside}")
        if lost:
            print_line("  `seal fit --resume RUN` makes the lost attempts again")


# --- one attempt


def attempt_lines(attempt: Attempt) -> Iterator[str]:
    """Yield one attempt whole; model-written text is indented, so that it cannot pass for our lines."""
    edit, plan = attempt.edit, attempt.plan
    yield f"attempt     {attempt.attempt_id}"
    yield f"of          task {attempt.task_id}, round {attempt.round}, edit {edit.edit_index}, repeat {attempt.repeat}"
    yield f"status      {attempt.status.value}"
    if attempt.failure is not None:
        yield f"failure     {attempt.failure}"
    parts = ", ".join(f"{name} {value:.6g}" for name, value in attempt.reward_breakdown.items())
    yield f"reward      {_number(attempt.reward)}{f'  ({parts})' if parts else ''}"
    if plan is not None:
        dropped = f" ({plan.dropped_sequences} dropped)" if plan.dropped_sequences else ""
        yield (
            f"plan        {plan.num_sequences} sequences{dropped}, {plan.num_steps} steps, {plan.num_tokens} tokens, "
            f"learning rate {plan.learning_rate:g}, rank {plan.rank}"
        )
    yield f"final loss  {_number(attempt.final_loss)}"
    yield f"seconds     {attempt.adapt_seconds:.3f} adapting, {attempt.examine_seconds:.3f} examining"
    yield f"seeds       {attempt.seed} inner loop, {edit.seed} edit"
    yield from _exam_lines(attempt.before, attempt.after)
    for name, exam in attempt.auxiliary_exams.items():
        yield from _auxiliary_lines(name, exam)
    for name, rating in attempt.ratings.items():
        marks = ", ".join(f"{criterion} {mark:g}" for criterion, mark in rating.marks.items())
        yield f"rating      {name}: {marks or 'no marks'}{f' ({rating.failure})' if rating.failure else ''}"
    yield f"directives  {json.dumps(edit.directives, ensure_ascii=False) if edit.directives else 'none'}"
    ended = f", ended by {edit.finish_reason.value}" if edit.finish_reason is not None else ""
    yield f"edit        {len(edit.text)} characters, {len(edit.token_ids)} tokens{ended}"
    yield from (f"    {line}" for line in edit.text.split("\n"))


def _auxiliary_lines(name: str, exam: AuxiliaryExam) -> Iterator[str]:
    """Yield an exam of the reward beside the task's own."""
    failure = f": {exam.failure}" if exam.failure is not None else ""
    yield f"exam        {name}{failure}"
    for number, (question, answer) in enumerate(exam.questions, start=1):
        yield f"    {number}. {question!r} {answer!r}"
    yield from (f"    {line}" for line in _exam_lines(exam.before, exam.after))


def _exam_lines(before: ExamScores | None, after: ExamScores | None) -> Iterator[str]:
    by_question: dict[str, list[tuple[str, QuestionScore]]] = {}
    for when, exam in (("before", before), ("after", after)):
        for score in exam.questions if exam is not None else ():
            by_question.setdefault(score.question_id, []).append((when, score))
    for question_id, scores in by_question.items():
        yield f"question    {question_id}"
        for when, score in scores:
            yield f"    {when:<6}  {'  '.join(_score_parts(score)) or 'nothing measured'}"


def _score_parts(score: QuestionScore) -> Iterator[str]:
    if score.log_prob is not None:
        yield f"log-prob {score.log_prob:.4f} over {score.num_target_tokens} tokens"
    if score.exact_match is not None:
        yield f"exact match {score.exact_match:g}"
    if score.f1 is not None:
        yield f"F1 {score.f1:.3f}"
    if score.verdict is not None:
        yield f"{score.verdict.status.value}{f' ({score.verdict.reason})' if score.verdict.reason else ''}"
    if score.answer is not None:
        yield f"answer {score.answer!r}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
