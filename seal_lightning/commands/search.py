"""``seal search RUN``: try configurations of the edit's schema on tasks, to see what could be solved (the oracle).

And how much probability each round's policy puts on the configurations that solve. What was tried is stored, so a search
that was cut short goes on where it ended. It computes on the CPU, in one process.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from seal_lightning.attempt_store import AttemptStore
from seal_lightning.commands.loading import load_run
from seal_lightning.commands.replay import merged_rounds
from seal_lightning.errors import ConfigError, RunError, shown
from seal_lightning.estimates import estimate, shown_estimate
from seal_lightning.evaluation.configurations import Configuration, configurations, is_solved, probability_of_solving
from seal_lightning.evaluation.episodes import inner_seed
from seal_lightning.evaluation.exams import EVERYTHING
from seal_lightning.module import SealModule
from seal_lightning.rundir import RunDir
from seal_lightning.types import Attempt, ChoiceScoreRequest, ExamScores, Task, TextSchema, Trial

_MIN_WIDTH = 120


def main(args: Sequence[str]) -> int:
    """Exit code 0 when all configurations were tried."""
    options = _parser().parse_args(args)
    run = RunDir.named(options.run, "RUN")
    module, data = load_run(run)
    data.setup("fit")
    tasks = data.tasks(options.tasks)
    if not tasks:
        raise RunError(f"{run.config} has no data.{options.tasks}: name another with --tasks")
    allowed = _allowed(options.only)
    module.configure_model()
    wanted = [(task, configurations(_schema(module, task), allowed, options.limit, module.seed)) for task in tasks]
    store = AttemptStore(run.search)
    _check_stored(run, module, store, wanted)
    # First what may be refused, then the hours of work; the round before training comes last, because it does that work.
    merged = [] if run.latest_checkpoint() is None else merged_rounds(run)
    log_probs = [_log_probs(module, merged[:r], wanted) for r in reversed(range(len(merged) + 1))][::-1]
    with closing(store):
        _try_out(module, store, wanted, options.at_once)
    tried = [
        _Tried(
            task=task,
            configurations=found,
            attempts=[_of(store, task, configuration) for configuration in found],
            log_probs=[of_round[place] for of_round in log_probs],
        )
        for place, (task, found) in enumerate(wanted)
    ]
    path = run.write_result(f"search_{options.tasks}", {one.task.task_id: _content(one) for one in tried})
    _print(tried)
    Console().print(f"Every configuration: {path}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal search", description="Try configurations of the self-edit's schema, on the CPU."
    )
    parser.add_argument("run", help="the run directory")
    parser.add_argument(
        "--tasks", choices=("train", "validation", "test"), default="test", help="which of the run's tasks"
    )
    parser.add_argument(
        "--limit", type=_positive, help="try so many configurations a task, drawn at random; default all"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHOICE=OPTION[,OPTION]", help="stay with these options"
    )
    parser.add_argument("--at_once", type=_positive, default=8, help="configurations handed to the inner loop at once")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it must be an integer of at least 1")
    return int(text)


def _allowed(texts: Sequence[str]) -> dict[str, list[str]]:
    """What ``--only`` stays with, by choice."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, sign, options = text.partition("=")
        if not sign or not options or name in found:
            raise ConfigError(
                f"--only {shown(text)} is not allowed; it must be CHOICE=OPTION or CHOICE=OPTION,OPTION, each choice once"
            )
        found[name] = options.split(",")
    return found


def _schema(module: SealModule, task: Task) -> TextSchema:
    schema = module.domain.edit_schema(task)
    if schema is None:
        raise ConfigError(
            f"{type(module.domain).__name__} has no schema of edits to search; for ARC set "
            "model.domain.init_args.constrained: true"
        )
    return schema


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A task's configurations, how each ended, and how likely the policy of each round is to choose it."""

    task: Task
    configurations: list[Configuration]
    attempts: list[Attempt]
    log_probs: list[Sequence[float]]

    @property
    def is_solved(self) -> bool:
        return any(map(is_solved, self.attempts))

    def probability_tried(self, round_index: int) -> float:
        """Of all that was tried: the policy may choose other configurations too."""
        return sum(map(math.exp, self.log_probs[round_index]))

    def probability_of_solving(self, round_index: int) -> float:
        return probability_of_solving(self.attempts, self.log_probs[round_index])


_Wanted = Sequence[tuple[Task, list[Configuration]]]


def _search_id(task: Task, configuration: Configuration) -> str:
    return f"search-{task.task_id}-c{configuration.index}"


def _seed(module: SealModule, task: Task) -> int:
    """The inner loop's, that of ``seal test``: the same configuration ends the same way in both."""
    return inner_seed(module.seed, task.task_id)


def _check_stored(run: RunDir, module: SealModule, store: AttemptStore, wanted: _Wanted) -> None:
    """Raise :class:`RunError` where what is stored was tried under other settings than the run's present ones."""
    for task, found in wanted:
        for configuration in found:
            stored = store.get(_search_id(task, configuration))
            if stored is not None and (stored.edit.text, stored.seed) != (configuration.text, _seed(module, task)):
                raise RunError(
                    f"{run.search} was made with other menus or another seed than {run.config} has: its "
                    f"{stored.attempt_id} is {shown(stored.edit.text)}. Move the folder away and search again"
                )


def _log_probs(module: SealModule, merged: list[dict[str, Tensor]], wanted: _Wanted) -> list[Sequence[float]]:
    """By task, how likely the policy with these rounds is to choose each configuration, nats."""
    module.loaded_policy.load_merged_states(merged)
    return [
        module.engine.score_choices(
            [
                ChoiceScoreRequest(
                    prompt=module.domain.edit_prompt(task), schema=_schema(module, task), choices=configuration.choices
                )
                for configuration in found
            ]
        )
        for task, found in wanted
    ]


def _try_out(module: SealModule, store: AttemptStore, wanted: _Wanted, at_once: int) -> None:
    """Try and store every configuration on the pretrained policy that is not stored yet."""
    chunks: list[tuple[Task, list[Configuration]]] = []
    for task, found in wanted:
        missing = [c for c in found if store.get(_search_id(task, c)) is None]
        chunks += [(task, missing[i : i + at_once]) for i in range(0, len(missing), at_once)]
    before: dict[str, ExamScores] = {}
    for task, chunk in track(chunks, description="Configurations"):
        if task.task_id not in before:
            before[task.task_id] = module.attempting.examine([(task, None)], EVERYTHING)[0]
            if before[task.task_id].solved is None:
                raise RunError(f"the solution of task {task.task_id} is not known, so none can be searched for")
        seed = _seed(module, task)
        trials = [Trial(task=task, edit=c.edit(task.task_id), round=0, repeat=0, seed=seed) for c in chunk]
        for configuration, attempt in zip(chunk, module.attempting.attempt(trials, before, EVERYTHING), strict=True):
            store.add(replace(attempt, attempt_id=_search_id(task, configuration)))


def _of(store: AttemptStore, task: Task, configuration: Configuration) -> Attempt:
    attempt = store.get(_search_id(task, configuration))
    assert attempt is not None
    return attempt


def _content(one: _Tried) -> dict[str, Any]:
    rounds = range(len(one.log_probs))
    return {
        "solved": one.is_solved,
        "probability_of_solving_among_tried_by_round": [one.probability_of_solving(r) for r in rounds],
        "probability_tried_by_round": [one.probability_tried(r) for r in rounds],
        "configurations": [
            {
                "choices": c.choices,
                "status": a.status.value,
                "solved": is_solved(a),
                "policy_log_prob_by_round": [of_round[i] for of_round in one.log_probs],
            }
            | ({"failure": a.failure} if a.failure else {})
            | ({"log_prob": a.after.log_prob, "cells_right": a.after.partial_credit} if a.after else {})
            for i, (c, a) in enumerate(zip(one.configurations, one.attempts, strict=True))
        ],
    }


def _print(tried: Sequence[_Tried]) -> None:
    table = Table(
        title="Configurations tried on the pretrained model; of those tried, the policy's probability of ones that solve"
    )
    rounds = range(len(tried[0].log_probs))
    headings = ["before training", *(f"after round {r}" for r in rounds[1:])]
    for heading in ("task", "tried", "solve", "failed", "best log-prob", *headings):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for one in tried:
        log_probs = [a.after.log_prob for a in one.attempts if a.after is not None and a.after.log_prob is not None]
        table.add_row(
            one.task.task_id,
            str(len(one.attempts)),
            str(sum(map(is_solved, one.attempts))),
            str(sum(a.after is None for a in one.attempts)),
            f"{max(log_probs):.3f}" if log_probs else "–",
            *(f"{one.probability_of_solving(r):.3f}" for r in rounds),
        )
    solvable = [one for one in tried if one.is_solved]
    table.add_section()
    means = [estimate([one.probability_of_solving(r) for one in solvable]) for r in rounds]
    table.add_row(f"mean of {len(solvable)} solvable", "", "", "", "", *map(shown_estimate, means))
    masses = [estimate([one.probability_tried(r) for one in tried]) for r in rounds]
    table.add_row("probability of all tried", "", "", "", "", *map(shown_estimate, masses))
    console = Console()
    Console(width=max(console.width, _MIN_WIDTH)).print(table)  # a log file would get 80 columns
    solved = estimate([float(one.is_solved) for one in tried])
    Console().print(
        f"Oracle (the best of those tried, one seed each): {shown_estimate(solved)} of {len(tried)} tasks solved"
    )
