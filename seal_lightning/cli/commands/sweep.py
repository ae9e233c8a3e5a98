"""``seal sweep RUN`` and ``seal sweep -c CONFIG``: the inner loop's settings on given edits, before a fit is paid for.

The paper's grid is over rank, learning rate, epochs and batch size. What was tried is stored, so a sweep that was cut
short goes on where it ended, and a larger grid tries only what is new.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from seal_lightning.cli.commands.loading import load_run, load_settings, merged_settings
from seal_lightning.cli.commands.sweep_edits import SOURCES, given_edits
from seal_lightning.cli.commands.sweep_report import Report
from seal_lightning.core import Task
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.interfaces import Reward
from seal_lightning.evaluation.sweep_grid import Setting, check_effective, read_grid
from seal_lightning.evaluation.sweeping import (
    GivenEdit,
    setting_rows,
    sweep_trials,
    try_out,
    unadapted_scores,
)
from seal_lightning.evaluation.unadapted_exams import asked_questions
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.lora import target_modules
from seal_lightning.scoring.rewards import AccuracyReward, LikelihoodReward
from seal_lightning.storage.atomic_files import write_bytes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

_DECIDES = ("pretrained", "student", "domain", "reward", "grader", "seed")
"""Parts of a model's configuration by which an attempt ends as it does."""
_CONFIGURATION = "configuration.json"


def main(args: Sequence[str]) -> int:
    """Exit code 0 when every setting was tried."""
    options = _parser().parse_args(args)
    run, home = _places(options)
    settings = read_grid(options.grid, options.max)
    configuration = run.settings() if run is not None else merged_settings(options.config)
    module, data = load_run(run) if run is not None else load_settings(configuration, "the configuration is refused")
    tasks = _tasks(options, data)
    store, deciding = AttemptStore(home.sweep), _deciding(configuration["model"])
    _check_configuration(store, deciding)
    home.check_writable()
    merged = _load(options, run, module)
    round_index = len(merged)
    check_prompts_fit(module.domain, tasks, module.loaded_policy.language_model, student=module.learner)
    given, left_out = given_edits(options.edits, options.num_edits, run, module, tasks)
    _check(settings, given, module, options)
    kind = f"{options.score}-{options.edits}"
    circumstances = _circumstances(module, tasks, merged)
    trials = sweep_trials(given, settings, options.num_seeds, module.seed, round_index, kind, circumstances)
    reward = _reward(options.score, module)
    runner = replace(module.runner, reward=reward)
    num_missing = len(runner.missing([one.trial for one in trials], store))
    Console().print(
        f"{len(settings)} settings × {len(given)} edits of {len({one.task.task_id for one in given})} tasks × "
        f"{options.num_seeds} inner seeds: {len(trials)} candidates, {len(trials) - num_missing} of them tried before",
        soft_wrap=True,
    )
    write_bytes(home.sweep / _CONFIGURATION, deciding)
    with closing(store):
        at_once = options.at_once or module.candidates_per_call
        with Progress() as progress:
            bar = progress.add_task("Candidates", total=num_missing)
            try_out(runner, store, trials, at_once, lambda attempt: progress.advance(bar))
    report = Report(
        options=options,
        rows=setting_rows(settings, trials, store, reward),
        unadapted=unadapted_scores(trials, store, reward),
        left_out=left_out,
        round_index=round_index,
    )
    report.publish(home, [run.config] if run is not None else options.config, given)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal sweep",
        description="Try given edits under a grid of inner-loop settings, and compare the settings in pairs.",
    )
    parser.add_argument("run", nargs="?", help="a run directory; or give configurations with -c")
    parser.add_argument("-c", "--config", action="append", help="as of `seal fit`, may be given repeatedly; with --out")
    parser.add_argument("--out", metavar="DIR", help="where sweep/ and results/ are kept; of a run, by default in it")
    parser.add_argument(
        "--grid",
        nargs="+",
        required=True,
        metavar="FIELD=VALUE[,VALUE]",
        help="fields of the inner loop's adapter and optimizer: rank=32,64 learning_rate=1e-4,1e-3 "
        "target_modules=all-linear,q_proj+v_proj layers=0+1,null. Others stay as each edit's plan has them: with rank "
        "alone alpha stays, so alpha / rank changes",
    )
    parser.add_argument("--max", type=_positive, default=10_000, metavar="N", help="refuse more candidates than these")
    _add_what(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda if there is one")
    parser.add_argument("--at_once", type=_positive, metavar="N", help="default model.candidates_per_call")
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    """What is tried under each setting, and what is measured."""
    what = parser.add_argument_group("what is tried and measured")
    what.add_argument(
        "--tasks", choices=("train", "validation", "test"), default="train", help="which tasks (default: train)"
    )
    what.add_argument("--num_tasks", type=_positive, metavar="N", help="the first N of them; default all")
    what.add_argument(
        "--edits",
        metavar="SOURCE",
        help="stored: what the run's first round tried (default of a run); own: the policy writes them now (default "
        "without); passage: the context alone; writer:NAME: one of model.test_writers",
    )
    what.add_argument("--num_edits", type=_positive, default=1, metavar="K", help="edits a task (default: 1)")
    what.add_argument("--num_seeds", type=_positive, default=1, metavar="S", help="inner seeds an edit (default: 1)")
    what.add_argument(
        "--score",
        choices=("log_prob", "accuracy", "reward"),
        default="log_prob",
        help="of the gold answers (default), of the model's own, or the configuration's reward",
    )
    what.add_argument(
        "--policy",
        choices=("pretrained", "newest"),
        default="pretrained",
        help="what is adapted, and writes own edits: the pretrained model (default), or after the run's newest round",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it must be an integer of at least 1")
    return int(text)


def _places(options: argparse.Namespace) -> tuple[RunDir | None, RunDir]:
    """The run, if there is one, and where the sweep is kept. Fills in whose edits are meant by default."""
    if (options.run is None) == (options.config is None):
        raise ConfigError("name either a run directory or configurations: `seal sweep RUN …`, `seal sweep -c CONFIG …`")
    if options.run is None and options.out is None:
        raise ConfigError("--out is missing: without a run, name a folder for what is tried and for the results")
    run = None if options.run is None else RunDir.named(options.run, "RUN")
    options.edits = options.edits or ("own" if run is None else "stored")
    source = options.edits.partition(":")[0]
    if source not in SOURCES or (source == "writer") != (":" in options.edits):
        raise ConfigError(
            f"--edits {shown(options.edits)} is not allowed; it must be stored, own, passage or writer:NAME, the name of one "
            "of model.test_writers"
        )
    if run is None and (source == "stored" or options.policy == "newest"):
        what = "--edits stored" if source == "stored" else "--policy newest"
        raise ConfigError(f"{what} needs a run: `seal sweep RUN …`")
    home = RunDir.named(options.out, "--out") if options.out is not None else run
    assert home is not None
    return run, home


def _tasks(options: argparse.Namespace, data: SealDataModule) -> Sequence[Task]:
    data.setup("fit")
    tasks = data.tasks(options.tasks)[: options.num_tasks]
    if not tasks:
        raise RunError(f"the configuration has no data.{options.tasks}: name another with --tasks")
    return tasks


def _load(options: argparse.Namespace, run: RunDir | None, module: SealModule) -> list[dict[str, torch.Tensor]]:
    """Have the model in place; returns the LoRA of each round it was trained for."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here; use --device cpu")
    merged = merged_rounds(run) if run is not None and options.policy == "newest" else []
    module.configure_model()
    if merged:
        module.loaded_policy.load_merged_states(merged)
    on_cuda = options.device != "cpu" and torch.cuda.is_available()
    module.to(torch.device("cuda" if on_cuda else "cpu"))
    return merged


def _circumstances(module: SealModule, tasks: Sequence[Task], merged: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By task, a digest of what is asked and of the policy: what was tried under others is not taken for this."""
    policy = sha256()
    for state in merged:
        for name in sorted(state):
            policy.update(name.encode())
            policy.update(_content(state[name]))
    found = {}
    for task in tasks:
        asked = repr((module.domain.exam(task), asked_questions(module.domain, task)))
        found[task.task_id] = sha256(asked.encode(errors="replace") + policy.digest()).hexdigest()[:12]
    return found


def _content(kept: Any) -> bytes:
    """What a checkpoint keeps of a round: a tensor of its LoRA, or the folder of its whole weights."""
    if isinstance(kept, torch.Tensor):
        return bytes(kept.detach().cpu().double().numpy().tobytes())
    files = sorted(path for path in Path(kept).iterdir() if path.is_file())
    return b"".join(path.name.encode() + sha256(path.read_bytes()).digest() for path in files)


def _check(
    settings: Sequence[Setting], given: Sequence[GivenEdit], module: SealModule, options: argparse.Namespace
) -> None:
    """Refuse what can be refused before hours of work."""
    if (count := len(settings) * len(given) * options.num_seeds) > options.max:
        raise ConfigError(
            f"--grid: {len(settings)} settings × {len(given)} edits × {options.num_seeds} inner seeds are {count} "
            f"candidates; allowed are {options.max}. Raise --max, or lower --num_tasks, --num_edits or --num_seeds"
        )
    plans = [one.plan for one in given]
    check_effective(settings, plans, adapters=module.inner_loop.uses_adapter_spec)
    model = module.learner.model
    adapters = {setting.applied(one.plan).adapter for setting in settings for one in given}
    for spec in {(spec.target_modules, spec.layers): spec for spec in adapters}.values():
        target_modules(model, spec)
    if module.inner_loop.uses_adapter_spec:
        policy = module.loaded_policy
        of_policy = policy.joined_rank(policy.num_finished) if module.student is None else 0
        module.runner.engine.check(of_policy + max((spec.rank for spec in adapters), default=0))


def _deciding(model: dict[str, Any]) -> bytes:
    """What of a model's configuration decides how attempts end."""
    parts: dict[str, Any] = {name: model.get(name) for name in _DECIDES}
    for name in ("pretrained", "student"):
        if isinstance(parts[name], dict):  # who reads the weights decides nothing, and absent is as null
            parts[name] = {k: v for k, v in parts[name].items() if k != "share_across_ranks" and v is not None}
    inner_loop = model.get("inner_loop")  # how many adapters it trains at once decides nothing
    parts["inner_loop"] = inner_loop.get("class_path") if isinstance(inner_loop, dict) else inner_loop
    return json.dumps(parts, indent=1, sort_keys=True, default=str).encode()


def _check_configuration(store: AttemptStore, deciding: bytes) -> None:
    """Raise :class:`RunError` where what is stored was tried under another configuration."""
    assert store.folder is not None
    path = store.folder / _CONFIGURATION
    kept = path.read_bytes() if path.is_file() and path.stat().st_size == len(deciding) else b""
    if store.all() and kept != deciding:
        raise RunError(
            f"{store.folder} was made with another configuration of the model ({path.name} there differs in one of "
            f"{', '.join((*_DECIDES, 'inner_loop'))}). Nothing was changed. Move the folder away, or name another with --out"
        )


def _reward(score: str, module: SealModule) -> Reward:
    """What is measured is what this needs, and no more. Raises :class:`ConfigError` where settings can make no difference."""
    named: dict[str, Reward] = {"log_prob": LikelihoodReward(), "accuracy": AccuracyReward()}
    reward = named.get(score, module.reward)
    if not reward.adapts:
        raise ConfigError(
            f"--score {score}: the run's {type(reward).__name__} adapts nothing, so no setting of the inner loop can change "
            "it; --score log_prob or --score accuracy can be swept for"
        )
    return reward
