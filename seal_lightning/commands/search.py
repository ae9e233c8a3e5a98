"""``seal search RUN``: try configurations of the edit's schema on tasks, to see what could be solved (the oracle).

Then: how much probability each round's policy puts on the configurations that solve. What was tried is stored, so a search
that was cut short goes on where it ended.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from seal_lightning.attempt_store import AttemptStore
from seal_lightning.commands.replay import load_run, merged_rounds
from seal_lightning.errors import ConfigError, RunError, shown
from seal_lightning.evaluation.configurations import Configuration, configurations, is_solved, probability_of_solving
from seal_lightning.evaluation.table import Estimate, estimate
from seal_lightning.module import SealModule
from seal_lightning.rundir import RunDir
from seal_lightning.seeds import attempt_id
from seal_lightning.types import Attempt, ChoiceScoreRequest, Task

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
    module.configure_model()
    allowed = dict(_pair(text) for text in options.only)
    tried = _searched(run, module, tasks, allowed, options)
    merged = merged_rounds(run)
    shares: list[dict[str, float]] = []
    for round_index in range(len(merged) + 1):
        module.loaded_policy.load_merged_states(merged[:round_index])
        shares.append({one.task.task_id: _share(module, one) for one in tried})
    path = run.write_result(f"search_{options.tasks}", _content(tried, shares))
    _print(tried, shares)
    Console().print(f"Every configuration: {path}", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="seal search", description="Try configurations of the self-edit's schema.")
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


def _pair(text: str) -> tuple[str, list[str]]:
    name, sign, options = text.partition("=")
    if not sign or not options:
        raise ConfigError(f"--only {shown(text)} is not allowed; it must be CHOICE=OPTION or CHOICE=OPTION,OPTION")
    return name, options.split(",")


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A task's configurations and how each ended."""

    task: Task
    configurations: list[Configuration]
    attempts: list[Attempt]


def _searched(
    run: RunDir, module: SealModule, tasks: Sequence[Task], allowed: dict[str, list[str]], options: argparse.Namespace
) -> list[_Tried]:
    """All configurations of all tasks, tried on the pretrained policy; what is stored is not tried again."""
    store = AttemptStore(run.search)
    chunks: list[tuple[Task, list[Configuration]]] = []
    wanted: list[tuple[Task, list[Configuration]]] = []
    for task in tasks:
        schema = module.domain.edit_schema(task)
        if schema is None:
            raise ConfigError(
                f"{type(module.domain).__name__} has no schema of edits to search; for ARC set "
                "model.domain.init_args.constrained: true"
            )
        found = configurations(schema, allowed, options.limit, module.seed)
        missing = [c for c in found if store.get(attempt_id(0, task.task_id, c.index, 0)) is None]
        chunks += [(task, missing[i : i + options.at_once]) for i in range(0, len(missing), options.at_once)]
        wanted.append((task, found))
    before = {}
    for task, chunk in track(chunks, description="Configurations"):
        if task.task_id not in before:
            before[task.task_id] = module.attempting.examine([(task, None)], module.reward.needs)[0]
        trials = [module.attempting.trial(task, c.edit(task.task_id), 0, 0) for c in chunk]
        for attempt in module.attempting.attempt(trials, before):
            store.add(attempt)
    store.close()
    return [
        _Tried(task=task, configurations=found, attempts=[_stored(store, task, c) for c in found])
        for task, found in wanted
    ]


def _stored(store: AttemptStore, task: Task, configuration: Configuration) -> Attempt:
    attempt = store.get(attempt_id(0, task.task_id, configuration.index, 0))
    assert attempt is not None
    return attempt


def _share(module: SealModule, tried: _Tried) -> float:
    """The policy's probability of the task's configurations that solve, among those tried."""
    schema = module.domain.edit_schema(tried.task)
    assert schema is not None
    prompt = module.domain.edit_prompt(tried.task)
    requests = [
        ChoiceScoreRequest(prompt=prompt, schema=schema, choices=configuration.choices)
        for configuration in tried.configurations
    ]
    return probability_of_solving(tried.attempts, module.engine.score_choices(requests))


def _content(tried: Sequence[_Tried], shares: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {
        one.task.task_id: {
            "probability_of_solving_by_round": [share[one.task.task_id] for share in shares],
            "configurations": [
                {"choices": c.choices, "status": a.status.value, "solved": is_solved(a), "reward": a.reward}
                | ({"failure": a.failure} if a.failure else {})
                | ({"log_prob": a.after.log_prob, "cells_right": a.after.partial_credit} if a.after else {})
                for c, a in zip(one.configurations, one.attempts, strict=True)
            ],
        }
        for one in tried
    }


def _print(tried: Sequence[_Tried], shares: Sequence[dict[str, float]]) -> None:
    table = Table(
        title="Configurations tried on the pretrained model, and the policy's probability of those that solve"
    )
    rounds = ["before training", *(f"after round {r}" for r in range(1, len(shares)))]
    for heading in ("task", "tried", "solve", "failed", "best log-prob", *rounds):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for one in tried:
        log_probs = [a.after.log_prob for a in one.attempts if a.after is not None and a.after.log_prob is not None]
        table.add_row(
            one.task.task_id,
            str(len(one.attempts)),
            str(sum(map(is_solved, one.attempts))),
            str(sum(a.after is None for a in one.attempts)),
            f"{max(log_probs):.3f}" if log_probs else "–",
            *(f"{share[one.task.task_id]:.3f}" for share in shares),
        )
    solvable = [one.task.task_id for one in tried if any(map(is_solved, one.attempts))]
    means = [estimate([share[task_id] for task_id in solvable]) for share in shares]
    table.add_section()
    table.add_row(f"mean of {len(solvable)} solvable", "", "", "", "", *map(_shown, means))
    console = Console()
    Console(width=max(console.width, _MIN_WIDTH)).print(table)  # a log file would get 80 columns


def _shown(value: Estimate | None) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.3f}" + ("" if value.standard_error is None else f" ± {value.standard_error:.3f}")
