"""``seal search RUN``: a grid over the choices of the edit's schema, to find what could be solved (the oracle).

It also ranks each configuration over all tasks (the best fixed setting), and computes how likely each round's policy chooses
configurations that solve. Attempts are stored: an interrupted search resumes. It runs on the CPU, in one process.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from seal_lightning.cli.commands.loading import attempt_progress, load_run, positive
from seal_lightning.core import (
    Attempt,
    ChoiceScoreRequest,
    FreeText,
    Measurement,
    Task,
    TextSchema,
    Trial,
)
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.grid import EditChoices, GridRow, edit_choices, grid_rows
from seal_lightning.evaluation.reference_exams import EVERYTHING
from seal_lightning.evaluation.steps import inner_seed
from seal_lightning.reporting.document import Table, print_line, show_table
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

_MAX_ROWS = 10

Points = Sequence[tuple[Task, list[EditChoices]]]


@dataclass(frozen=True, kw_only=True)
class SearchedTask:
    """A task with its points of the grid, an attempt at each, and how likely each round's policy chooses them."""

    task: Task
    points: list[EditChoices]
    attempts: list[Attempt]
    log_probs: list[Sequence[float]]
    """By round, nats."""

    @property
    def is_examined(self) -> bool:
        """True where answers were graded, so that solved tasks are known."""
        return any(a.after is not None and a.after.solved is not None for a in self.attempts)

    @property
    def is_solved(self) -> bool:
        """Return whether any point solves the task."""
        return any(map(is_solved, self.attempts))

    def probability_tried(self, round_index: int) -> float:
        """Return the policy's probability of all points that were tried."""
        return sum(map(math.exp, self.log_probs[round_index]))

    def probability_of_solving(self, round_index: int) -> float:
        """Return the share of that probability on points that solve."""
        return probability_of_solving(self.attempts, self.log_probs[round_index])

    def content(self) -> dict[str, Any]:
        """Return the task's points as JSON."""
        rounds = range(len(self.log_probs))
        solving = [self.probability_of_solving(r) if self.is_examined else None for r in rounds]
        return {
            "solved": self.is_solved if self.is_examined else None,
            "probability_of_solving_among_tried_by_round": solving,
            "probability_tried_by_round": [self.probability_tried(r) for r in rounds],
            "configurations": [
                {
                    "choices": point.choices,
                    "status": a.status.value,
                    "solved": is_solved(a) if self.is_examined else None,
                    "reward": a.reward,
                    "policy_log_prob_by_round": [of_round[i] for of_round in self.log_probs],
                }
                | ({"failure": a.failure} if a.failure else {})
                | ({"log_prob": a.after.log_prob, "cells_right": a.after.partial_credit} if a.after else {})
                for i, (point, a) in enumerate(zip(self.points, self.attempts, strict=True))
            ],
        }


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 0 when all points were tried."""
    options = _parser().parse_args(args)
    run = RunDir.named(options.run, "RUN")
    module, data = load_run(run)
    data.setup("fit")
    tasks = data.tasks(options.tasks)
    if not tasks:
        raise RunError(f"{run.config} has no data.{options.tasks}: name another with --tasks")
    allowed = _allowed(options.only)
    module.configure_model()
    points = [(task, edit_choices(_schema(module, task), allowed, options.limit, module.seed)) for task in tasks]
    store = AttemptStore(run.search)
    _check_stored(run, module, store, points)
    # The untrained policy comes last, because it makes the attempts.
    merged = [] if run.latest_checkpoint() is None else merged_rounds(run)
    log_probs = [_log_probs(module, merged[:r], points) for r in reversed(range(len(merged) + 1))][::-1]
    with closing(store):
        attempts = _attempts(module, store, points, options.at_once)
    searched = [
        SearchedTask(task=task, points=found, attempts=of_task, log_probs=[of_round[i] for of_round in log_probs])
        for i, ((task, found), of_task) in enumerate(zip(points, attempts, strict=True))
    ]
    path = run.write_result(f"search_{options.tasks}", {one.task.task_id: one.content() for one in searched})
    best = fixed_settings(searched)
    settings = run.write_result(f"search_{options.tasks}_settings", [_setting_content(row) for row in best])
    if any(one.is_examined for one in searched):
        _print_solved(searched)
    if best:
        _print_fixed(best, len(searched))
    print_line(f"Every configuration: {path}; the same over all tasks: {settings}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal search", description="Try configurations of the self-edit's schema, on the CPU."
    )
    parser.add_argument("run", help="the run directory")
    parser.add_argument(
        "--tasks", choices=("train", "validation", "test"), default="test", help="which of the run's tasks"
    )
    parser.add_argument("--limit", type=positive, help="try N configurations per task, drawn at random; default all")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHOICE=OPTION[,OPTION]", help="try only these options"
    )
    parser.add_argument("--at_once", type=positive, default=8, help="configurations that the inner loop gets at once")
    return parser


def _allowed(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the options of ``--only`` by choice."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, sign, options = text.partition("=")
        if not sign or not options or name in found:
            raise ConfigError(
                f"--only {shown(text)} is not allowed; it must be CHOICE=OPTION or CHOICE=OPTION,OPTION, each choice once"
            )
        found[name] = options.split(",")
    return found


# --- attempts


def _schema(module: SealModule, task: Task) -> TextSchema:
    schema = module.domain.edit_schema(task)
    if schema is None:
        raise ConfigError(
            f"{type(module.domain).__name__} has no schema of edits to search. For ARC set "
            "model.domain.init_args.constrained: true; for passages the format DirectedEdits, written: slots"
        )
    return schema


def _search_id(task: Task, point: EditChoices) -> str:
    return f"search-{task.task_id}-c{point.index}"


def _check_stored(run: RunDir, module: SealModule, store: AttemptStore, points: Points) -> None:
    """Raise :class:`RunError` where attempts were made with other menus or another seed than the run's present ones."""
    for task, found in points:
        for point in found:
            stored = store.get(_search_id(task, point))
            now = (point.choices, inner_seed(module.seed, task.task_id))
            if stored is not None and (stored.edit.directives, stored.seed) != now:
                raise RunError(
                    f"{run.search} was made with other menus or another seed than {run.config} has: its "
                    f"{stored.attempt_id} is {shown(stored.edit.directives)}. Move the folder away and search again"
                )


def _log_probs(module: SealModule, merged: list[dict[str, Tensor]], points: Points) -> list[Sequence[float]]:
    """Return by task the log-probability (nats) of each point under the policy of these rounds."""
    module.loaded_policy.load_merged_states(merged)
    found = []
    for task, of_task in points:
        prompt, schema = module.domain.edit_prompt(task), _schema(module, task)
        requests = [ChoiceScoreRequest(prompt=prompt, schema=schema, choices=point.choices) for point in of_task]
        found.append(module.engine.score_choices(requests))
    return found


def _attempts(module: SealModule, store: AttemptStore, points: Points, at_once: int) -> list[list[Attempt]]:
    """Try and store what is missing, on the pretrained policy; return the attempts by task."""
    free = any(isinstance(part, FreeText) for part in _schema(module, points[0][0]))
    # Choices alone are solved or not, whatever the reward is; of texts, what the reward needs costs far less.
    needs = module.reward.needs if free else EVERYTHING
    missing = [(task, [p for p in found if store.get(_search_id(task, p)) is None]) for task, found in points]
    with attempt_progress("Configurations", sum(len(found) for _, found in missing)) as advance:
        for task, found in missing:
            before = module.runner.before([task], needs=needs) if found else {}
            if Measurement.ANSWERS in needs and any(exam.solved is None for exam in before.values()):
                raise RunError(
                    f"the solution of task {task.task_id} is unknown or cannot be graded: it cannot be searched"
                )
            for start in range(0, len(found), at_once):
                trials = _trials(module, task, found[start : start + at_once])
                module.runner.run(trials, store, before=before, needs=needs, on_attempt=advance)
    by_id = {attempt.attempt_id: attempt for attempt in store.all()}
    return [[by_id[_search_id(task, point)] for point in found] for task, found in points]


def _trials(module: SealModule, task: Task, points: Sequence[EditChoices]) -> list[Trial]:
    """Return a trial per point; free text of the edits is written by the pretrained policy.

    The inner seed is that of ``seal test``: the same configuration ends the same way in both.
    """
    seeds = [derive_seed(module.seed, "search", task.task_id, point.index) for point in points]
    edits = module.writer.write_with_choices([task] * len(points), [point.choices for point in points], seeds)
    return [
        Trial(
            task=task,
            edit=replace(edit, edit_index=point.index),
            round=0,
            repeat=0,
            seed=inner_seed(module.seed, task.task_id),
            custom_id=_search_id(task, point),
        )
        for point, edit in zip(points, edits, strict=True)
    ]


def is_solved(attempt: Attempt) -> bool:
    """Return whether every question of the attempt's task was answered right."""
    return attempt.after is not None and attempt.after.solved == 1.0


def probability_of_solving(attempts: Sequence[Attempt], log_probs: Sequence[float]) -> float:
    """Return the share of a policy's probability on attempts that solve, among those of one task.

    Args:
        attempts: one or more.
        log_probs: the policy's, one per attempt, nats.
    """
    highest = max(log_probs)
    weights = [math.exp(log_prob - highest) for log_prob in log_probs]
    return sum(w for w, a in zip(weights, attempts, strict=True) if is_solved(a)) / sum(weights)


# --- what was found


def fixed_settings(searched: Sequence[SearchedTask]) -> list[GridRow[EditChoices]]:
    """Return the points that were tried on every task: the best mean reward first, those that failed anywhere last.

    The best of many is also the luckiest: its mean is biased upwards, so compare it on tasks that were not searched.
    """
    by_choices: dict[tuple[tuple[str, str], ...], tuple[EditChoices, list[Attempt]]] = {}
    for one in searched:
        for point, attempt in zip(one.points, one.attempts, strict=True):
            by_choices.setdefault(tuple(point.choices.items()), (point, []))[1].append(attempt)
    everywhere = [(point, found) for point, found in by_choices.values() if len(found) == len(searched)]
    return grid_rows(everywhere, lambda attempt: attempt.reward, failed_last=True) if everywhere else []


def _behind_best(row: GridRow[EditChoices]) -> Estimate | None:
    return None if _num_failed(row) else row.difference


def _num_failed(row: GridRow[EditChoices]) -> int:
    return row.num_failed + row.num_unscored


def _setting_content(row: GridRow[EditChoices]) -> dict[str, Any]:
    score, behind = row.score, _behind_best(row)
    return {
        "choices": row.point.choices,
        "num_tasks": 0 if score is None else score.n,
        "num_failed": _num_failed(row),
        "mean_reward": None if score is None else score.mean,
        "standard_error": None if score is None else score.standard_error,
        "minus_best": None if behind is None else behind.mean,
        "minus_best_standard_error": None if behind is None else behind.standard_error,
    }


def _print_fixed(rows: Sequence[GridRow[EditChoices]], num_tasks: int) -> None:
    names = list(rows[0].point.choices)
    cells = [
        (
            *(row.point.choices[name].strip() for name in names),
            shown_estimate(row.score),
            shown_estimate(_behind_best(row)),
            str(_num_failed(row)),
        )
        for row in rows[:_MAX_ROWS]
    ]
    title = f"One setting for all tasks: mean reward over {num_tasks} tasks, the best of {len(rows)}"
    headings = (*names, "reward", "minus the best", "failed")
    show_table(Table(title=title, headings=headings, rows=tuple(cells), text_columns=()))
    if with_failures := sum(_num_failed(row) > 0 for row in rows):
        print_line(f"{with_failures} of {len(rows)} settings failed on at least one task; they follow all others")


def _print_solved(searched: Sequence[SearchedTask]) -> None:
    rounds = range(len(searched[0].log_probs))
    rows = []
    for one in searched:
        log_probs = [a.after.log_prob for a in one.attempts if a.after is not None and a.after.log_prob is not None]
        counts = len(one.attempts), sum(map(is_solved, one.attempts)), sum(a.after is None for a in one.attempts)
        best = f"{max(log_probs):.3f}" if log_probs else "–"
        rows.append(
            (one.task.task_id, *map(str, counts), best, *(f"{one.probability_of_solving(r):.3f}" for r in rounds))
        )
    solvable = [one for one in searched if one.is_solved]
    means = [estimate([one.probability_of_solving(r) for one in solvable]) for r in rounds]
    tried = [estimate([one.probability_tried(r) for one in searched]) for r in rounds]
    footer = (
        (f"mean of {len(solvable)} solvable", "", "", "", "", *map(shown_estimate, means)),
        ("probability of all tried", "", "", "", "", *map(shown_estimate, tried)),
    )
    title = "Configurations tried on the pretrained model; of those tried, the policy's probability of ones that solve"
    policies = ("before training", *(f"after round {r}" for r in rounds[1:]))
    headings = ("task", "tried", "solve", "failed", "best log-prob", *policies)
    show_table(Table(title=title, headings=headings, rows=tuple(rows), footer=footer))
    solved = estimate([float(one.is_solved) for one in searched])
    print_line(
        f"Oracle (the best of those tried, one seed each): {shown_estimate(solved)} of {len(searched)} tasks solved"
    )
