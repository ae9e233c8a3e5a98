"""``seal search RUN``: try configurations of the edit's schema on tasks, to see what could be solved (the oracle).

And which one earns most over all tasks (what a person would set once and for all), and how much probability each round's
policy puts on the configurations that solve. What was tried is stored, so a search that was cut short goes on where it
ended. It computes on the CPU, in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from rich.console import Console
from rich.progress import track
from torch import Tensor

from seal_lightning.cli.commands.loading import load_run
from seal_lightning.cli.commands.search_report import Tried, best_settings, content, show
from seal_lightning.core import (
    Attempt,
    ChoiceScoreRequest,
    ExamScores,
    FreeText,
    Measurement,
    SelfEdit,
    Task,
    TextSchema,
    Trial,
)
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.configurations import Configuration, configurations
from seal_lightning.evaluation.steps import inner_seed
from seal_lightning.evaluation.unadapted_exams import EVERYTHING
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule


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
        Tried(
            task=task,
            configurations=found,
            attempts=[_of(store, task, configuration) for configuration in found],
            log_probs=[of_round[place] for of_round in log_probs],
        )
        for place, (task, found) in enumerate(wanted)
    ]
    path = run.write_result(f"search_{options.tasks}", {one.task.task_id: content(one) for one in tried})
    best = best_settings(tried)
    settings = run.write_result(f"search_{options.tasks}_settings", [setting.content() for setting in best])
    show(tried, best)
    Console().print(f"Every configuration: {path}; the same over all tasks: {settings}", soft_wrap=True)
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
            f"{type(module.domain).__name__} has no schema of edits to search. For ARC set "
            "model.domain.init_args.constrained: true; for passages the format DirectedEdits, written: slots"
        )
    return schema


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
            same = stored is None or (stored.edit.directives, stored.seed) == (
                configuration.choices,
                _seed(module, task),
            )
            if stored is not None and not same:
                raise RunError(
                    f"{run.search} was made with other menus or another seed than {run.config} has: its "
                    f"{stored.attempt_id} is {shown(stored.edit.directives)}. Move the folder away and search again"
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
    needs = _needs(module, wanted[0][0])
    before: dict[str, ExamScores] = {}
    for task, chunk in track(chunks, description="Configurations"):
        if task.task_id not in before:
            before[task.task_id] = module.runner.examine([(task, None)], needs)[0]
            if Measurement.ANSWERS in needs and before[task.task_id].solved is None:
                raise RunError(
                    f"the solution of task {task.task_id} is not known, or it cannot be graded: nothing is searched"
                )
        seed = _seed(module, task)
        trials = [Trial(task=task, edit=edit, round=0, repeat=0, seed=seed) for edit in _edits(module, task, chunk)]
        for configuration, attempt in zip(chunk, module.runner.run(trials, before=before, needs=needs), strict=True):
            store.add(replace(attempt, attempt_id=_search_id(task, configuration)))


def _needs(module: SealModule, task: Task) -> frozenset[Measurement]:
    """What is chosen as a whole is solved or not, whatever the reward is; of texts, what the reward needs costs far less."""
    free = any(isinstance(part, FreeText) for part in _schema(module, task))
    return module.reward.needs if free else EVERYTHING


def _edits(module: SealModule, task: Task, chunk: Sequence[Configuration]) -> list[SelfEdit]:
    """The configurations as edits; what is free in them is written by the pretrained policy."""
    seeds = [derive_seed(module.seed, "search", task.task_id, configuration.index) for configuration in chunk]
    written = module.writer.write_with_choices([task] * len(chunk), [c.choices for c in chunk], seeds)
    return [replace(edit, edit_index=c.index) for c, edit in zip(chunk, written, strict=True)]


def _of(store: AttemptStore, task: Task, configuration: Configuration) -> Attempt:
    attempt = store.get(_search_id(task, configuration))
    assert attempt is not None
    return attempt
