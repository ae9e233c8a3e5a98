"""``seal sweep RUN`` and ``seal sweep -c CONFIG``: a grid of inner-loop settings on given edits, before paying for a fit.

The paper's grid is over rank, learning rate, epochs and batch size. Attempts are stored: an interrupted sweep resumes, and a
larger grid tries only what is new.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from seal_lightning.cli.commands.loading import attempt_progress, load_run, load_settings, merged_settings, positive
from seal_lightning.cli.commands.sweep_report import SweepReport
from seal_lightning.core import AdaptationPlan, Attempt, AttemptStatus, SelfEdit, Task, Trial
from seal_lightning.core.errors import ConfigError, MalformedEdit, RunError, shown
from seal_lightning.core.interfaces import Reward
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.grid import FAILED, GridSetting, check_effective, grid_rows, read_grid
from seal_lightning.evaluation.reference_exams import gold_questions
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.lora import target_modules
from seal_lightning.reporting.document import print_line
from seal_lightning.scoring.rewards import AccuracyReward, LikelihoodReward
from seal_lightning.storage.atomic_files import write_bytes
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

_SOURCES = ("stored", "own", "passage", "writer")
_DECIDES = ("pretrained", "student", "domain", "reward", "grader", "seed")
"""Parts of a model's configuration that the outcome of an attempt depends on."""
_CONFIGURATION = "configuration.json"


@dataclass(frozen=True, kw_only=True)
class GivenEdit:
    """An edit that is tried under every setting, with its plan without any setting."""

    task: Task
    edit: SelfEdit
    plan: AdaptationPlan


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 0 when every setting was tried."""
    options = _parser().parse_args(args)
    run, home = _places(options)
    settings = read_grid(options.grid, options.max)
    configuration = run.settings() if run is not None else merged_settings(options.config)
    module, data = load_run(run) if run is not None else load_settings(configuration, "the configuration is invalid")
    data.setup("fit")
    tasks = data.tasks(options.tasks)[: options.num_tasks]
    if not tasks:
        raise RunError(f"the configuration has no data.{options.tasks}: name another with --tasks")
    store, deciding = AttemptStore(home.sweep), _deciding(configuration["model"])
    _check_configuration(store, deciding)
    home.check_writable()
    merged = merged_rounds(run) if run is not None and options.policy == "newest" else []
    _load(options, module, merged)
    check_prompts_fit(module.domain, tasks, module.loaded_policy.language_model, student=module.learner)
    given, skipped = given_edits(options.edits, options.num_edits, run, module, tasks)
    _check(settings, given, module, options)
    reward = _reward(options.score, module)
    runner = replace(module.runner, reward=reward)
    kinds = _kinds(options, module, tasks, merged)
    trials = [sweep_trials(given, one, options.num_seeds, module.seed, len(merged), kinds) for one in settings]
    # All settings of an edit together: they train side by side.
    every = [trial for of_edit in zip(*trials, strict=True) for trial in of_edit]
    num_missing = len(runner.missing(every, store))
    print_line(
        f"{len(settings)} settings × {len(given)} edits of {len({one.task.task_id for one in given})} tasks × "
        f"{options.num_seeds} inner seeds: {len(every)} candidates, {len(every) - num_missing} of them tried before"
    )
    write_bytes(home.sweep / _CONFIGURATION, deciding)
    at_once = options.at_once or module.candidates_per_call
    with closing(store), attempt_progress("Candidates", num_missing) as advance:
        attempts = runner.run(every, store, candidates_per_call=at_once, on_attempt=advance, only_missing=True)

    def score(attempt: Attempt) -> float | None:
        """A failed attempt counts as if nothing had been learned."""
        return reward.score(attempt.unadapted).value if attempt.status in FAILED else attempt.reward

    by_setting = [(setting, attempts[i :: len(settings)]) for i, setting in enumerate(settings)]
    unadapted = {a.task_id: value for a in attempts if (value := reward.score(a.unadapted).value) is not None}
    SweepReport(
        options=options,
        rows=grid_rows(by_setting, score),
        unadapted=unadapted,
        skipped=skipped,
        round_index=len(merged),
        edits=[(one.task, one.edit) for one in given],
    ).publish(home, [run.config] if run is not None else options.config)
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
    parser.add_argument("--max", type=positive, default=10_000, metavar="N", help="refuse more candidates than these")
    what = parser.add_argument_group("what is tried and measured")
    what.add_argument(
        "--tasks", choices=("train", "validation", "test"), default="train", help="which tasks (default: train)"
    )
    what.add_argument("--num_tasks", type=positive, metavar="N", help="the first N of them; default all")
    what.add_argument(
        "--edits",
        metavar="SOURCE",
        help="stored: those of the run's first round (default of a run); own: the policy writes them now (default "
        "without a run); passage: the context alone; writer:NAME: one of model.test_writers",
    )
    what.add_argument("--num_edits", type=positive, default=1, metavar="K", help="edits per task (default: 1)")
    what.add_argument("--num_seeds", type=positive, default=1, metavar="S", help="inner seeds per edit (default: 1)")
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
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda if there is one")
    parser.add_argument("--at_once", type=positive, metavar="N", help="default model.candidates_per_call")
    return parser


def _places(options: argparse.Namespace) -> tuple[RunDir | None, RunDir]:
    """Return the run, if there is one, and the folder of the sweep; sets the default of ``--edits``."""
    if (options.run is None) == (options.config is None):
        raise ConfigError("name either a run directory or configurations: `seal sweep RUN …`, `seal sweep -c CONFIG …`")
    if options.run is None and options.out is None:
        raise ConfigError("--out is missing: without a run, name a folder for the attempts and results")
    run = None if options.run is None else RunDir.named(options.run, "RUN")
    options.edits = options.edits or ("own" if run is None else "stored")
    source = options.edits.partition(":")[0]
    if source not in _SOURCES or (source == "writer") != (":" in options.edits):
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


def _load(options: argparse.Namespace, module: SealModule, merged: Sequence[dict[str, Any]]) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device; use --device cpu")
    module.configure_model()
    if merged:
        module.loaded_policy.load_merged_states(list(merged))
    on_cuda = options.device != "cpu" and torch.cuda.is_available()
    module.to(torch.device("cuda" if on_cuda else "cpu"))


# --- trials


def given_edits(
    source: str, num_edits: int, run: RunDir | None, module: SealModule, tasks: Sequence[Task]
) -> tuple[list[GivenEdit], list[tuple[str, str]]]:
    """Return up to ``num_edits`` edits per task with their plans, and (task id, reason) of what was skipped.

    Raises :class:`RunError` when nothing is left, :class:`ConfigError` for a writer that the configuration lacks.
    """
    by_task: dict[str, dict[int, SelfEdit]] = {task.task_id: {} for task in tasks}
    for edit in _edits(source, num_edits, run, module, tasks):
        if edit.task_id in by_task:
            by_task[edit.task_id].setdefault(edit.edit_index, edit)
    given: list[GivenEdit] = []
    skipped: list[tuple[str, str]] = []
    for task in tasks:
        found = [edit for _, edit in sorted(by_task[task.task_id].items())][:num_edits]
        if not found:
            skipped.append((task.task_id, "no edit"))
        for edit in found:
            try:
                plan = module.domain.plan_without_edit(task) if source == "passage" else module.runner.plan(task, edit)
            except MalformedEdit as error:
                skipped.append((task.task_id, f"edit {edit.edit_index} is malformed: {error}"))
            else:
                given.append(GivenEdit(task=task, edit=edit, plan=plan))
    if not given:
        task_id, reason = skipped[0]
        raise RunError(
            f"--edits {source}: none of {len(tasks)} tasks has an edit to train on; of {shown(task_id)}: {shown(reason)}. "
            "Name other edits, for instance --edits passage"
        )
    return given, skipped


def _edits(
    source: str, num_edits: int, run: RunDir | None, module: SealModule, tasks: Sequence[Task]
) -> Sequence[SelfEdit]:
    if source == "passage":
        return [SelfEdit(task_id=t.task_id, edit_index=0, text=module.domain.context_text(t)) for t in tasks]
    if source == "stored":
        assert run is not None
        # Of the first round only: edits of later rounds are another policy's.
        edits = [a.edit for a in AttemptStore(run.round(0)).all() if a.status is not AttemptStatus.MALFORMED]
        if not {edit.task_id for edit in edits} & {task.task_id for task in tasks}:
            raise RunError(
                f"--edits stored: {run.round(0)} has no edits of these tasks, only of those of the E-step (--tasks train). "
                "Name other edits: --edits own has them written now, --edits passage needs none"
            )
        return edits
    name = source.partition(":")[2]
    if source != "own" and name not in module.test_writers:
        known = ", ".join(map(shown, module.test_writers)) or "none"
        raise ConfigError(f"--edits {shown(source)} is not allowed; model.test_writers has {known}")
    return module.runner.propose(tasks, num_edits, "sweep", None if source == "own" else module.test_writers[name])


def sweep_trials(
    given: Sequence[GivenEdit],
    setting: GridSetting,
    num_seeds: int,
    seed: int,
    round_index: int,
    kinds: dict[str, str],
) -> list[Trial]:
    """Return ``num_seeds`` trials of each edit under a setting; the inner seeds are the same under all settings.

    Each task's ``kinds`` says what else distinguishes its trials: sweeps of several kinds are stored together.
    """
    trials = []
    for one in given:
        task_id, index = one.task.task_id, one.edit.edit_index
        for repeat in range(num_seeds):
            trial = Trial(
                task=one.task,
                # Tokens serve an M-step only; thousands of copies would fill the journal.
                edit=replace(one.edit, token_ids=(), chosen=None),
                round=round_index,
                repeat=repeat,
                seed=derive_seed(seed, "sweep", task_id, index, repeat),
                plan=setting.applied(one.plan),
                custom_id=f"sweep-{kinds[task_id]}-{task_id}-e{index}-s{repeat}-{setting.name}",
            )
            trials.append(trial)
    return trials


def _kinds(
    options: argparse.Namespace, module: SealModule, tasks: Sequence[Task], merged: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """Return by task the score, the source of edits, and a digest of the exam and the policy."""
    policy = sha256()
    for state in merged:
        for name in sorted(state):
            policy.update(name.encode())
            policy.update(_content(state[name]))
    found = {}
    for task in tasks:
        exam = repr((module.domain.exam(task), gold_questions(module.domain, task)))
        digest = sha256(exam.encode(errors="replace") + policy.digest()).hexdigest()[:12]
        found[task.task_id] = f"{options.score}-{options.edits}-r{len(merged)}-{digest}"
    return found


def _content(kept: Any) -> bytes:
    """Return the bytes of a round's weights in a checkpoint: a LoRA tensor, or a folder of whole weights."""
    if isinstance(kept, torch.Tensor):
        return bytes(kept.detach().cpu().double().numpy().tobytes())
    files = sorted(path for path in Path(kept).iterdir() if path.is_file())
    return b"".join(path.name.encode() + sha256(path.read_bytes()).digest() for path in files)


# --- checks before hours of work


def _check(
    settings: Sequence[GridSetting], given: Sequence[GivenEdit], module: SealModule, options: argparse.Namespace
) -> None:
    if (count := len(settings) * len(given) * options.num_seeds) > options.max:
        raise ConfigError(
            f"--grid: {len(settings)} settings × {len(given)} edits × {options.num_seeds} inner seeds are {count} "
            f"candidates; allowed are {options.max}. Raise --max, or lower --num_tasks, --num_edits or --num_seeds"
        )
    check_effective(settings, [one.plan for one in given], adapters=module.inner_loop.uses_adapter_spec)
    adapters = {setting.applied(one.plan).adapter for setting in settings for one in given}
    for spec in {(spec.target_modules, spec.layers): spec for spec in adapters}.values():
        target_modules(module.learner.model, spec)
    if module.inner_loop.uses_adapter_spec:
        policy = module.loaded_policy
        of_policy = policy.joined_rank(policy.num_finished) if module.student is None else 0
        module.runner.engine.check(of_policy + max((spec.rank for spec in adapters), default=0))


def _deciding(model: dict[str, Any]) -> bytes:
    """Return the part of a model's configuration that the outcome of attempts depends on, as JSON."""
    parts: dict[str, Any] = {name: model.get(name) for name in _DECIDES}
    for name in ("pretrained", "student"):
        if isinstance(parts[name], dict):  # the reader of the weights has no influence, and absent is as null
            parts[name] = {k: v for k, v in parts[name].items() if k != "share_across_ranks" and v is not None}
    inner_loop = model.get("inner_loop")  # the number of adapters it trains at once has no influence
    parts["inner_loop"] = inner_loop.get("class_path") if isinstance(inner_loop, dict) else inner_loop
    return json.dumps(parts, indent=1, sort_keys=True, default=str).encode()


def _check_configuration(store: AttemptStore, deciding: bytes) -> None:
    assert store.folder is not None
    path = store.folder / _CONFIGURATION
    if store.all() and (not path.is_file() or path.read_bytes() != deciding):
        raise RunError(
            f"{store.folder} was made with another configuration of the model ({path.name} there differs in one of "
            f"{', '.join((*_DECIDES, 'inner_loop'))}). Move the folder away, or name another with --out"
        )


def _reward(score: str, module: SealModule) -> Reward:
    """Return the reward that measures the score and nothing else."""
    named: dict[str, Reward] = {"log_prob": LikelihoodReward(), "accuracy": AccuracyReward()}
    reward = named.get(score, module.reward)
    if not reward.adapts:
        raise ConfigError(
            f"--score {score}: the run's {type(reward).__name__} adapts nothing, so no setting of the inner loop can change "
            "it. Use --score log_prob or --score accuracy"
        )
    return reward
