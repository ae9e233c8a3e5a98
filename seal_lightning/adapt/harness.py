"""The base and the adapted model of a folder through EleutherAI's lm-evaluation-harness (the extra ``lm_eval``).

The harness's own model class is asked, with one model object for both: the adapter is put on by hooks for the second pass.
Data sets are prepared in a temporary folder, so nothing is left on the disk but what the hub's client fetches for a task
of a hub.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from seal_lightning.adapt.bases import checked_adapter, pretrained
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.probe import PROBE_FILE
from seal_lightning.adapt.side_effects import Elsewhere, paired_scores
from seal_lightning.core.errors import ConfigError, RunError, SealError, require, shown
from seal_lightning.models.lora import applied

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

DEFAULT_TASK = "seal_general_knowledge"
"""The probe that comes with this package; needs no network."""
_TASK_FILE = Path(__file__).with_name(f"{DEFAULT_TASK}.yaml")
_SEED = 1234
_PACKAGES = ("lm_eval", "torch", "transformers", "datasets")


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """What is asked, and how."""

    tasks: tuple[str, ...] = (DEFAULT_TASK,)
    """Names of tasks, groups or tags."""
    include_path: Path | None = None
    """A folder with tasks of one's own. Tasks may bring Python code, which runs: name folders of people you trust."""
    limit: int | None = None
    """≥ 1: the first samples of each task only."""
    num_fewshot: int | None = None
    """≥ 0: worked examples before each question; None: as the task says."""
    batch_size: int = 8
    """≥ 1."""
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        require(bool(self.tasks), "--tasks", self.tasks, "at least one name")
        require(self.limit is None or self.limit >= 1, "--limit", self.limit, "at least 1")
        require(self.num_fewshot is None or self.num_fewshot >= 0, "--num_fewshot", self.num_fewshot, "at least 0")
        require(self.batch_size >= 1, "--batch_size", self.batch_size, "at least 1")
        include = self.include_path
        require(include is None or include.is_dir(), "--include_path", str(include), "a folder that is there")


def measure(folder: AdaptedFolder, options: HarnessOptions) -> Elsewhere:
    """Ask the base model and the adapted one the same samples.

    Raises :class:`ConfigError` without the extra, for tasks that are not there or not well made; :class:`ModelError` for a
    base that cannot be had and a damaged adapter; :class:`RunError` for what the harness or a task's data set refuses.
    """
    check_extra()
    base = folder.record().base
    with _quiet(), tempfile.TemporaryDirectory(prefix="seal-lm-eval-") as scratch, _datasets_in(Path(scratch)):
        manager = _task_manager(options, _own_task(Path(scratch)))
        _check_loadable(manager, options)  # before the model is read
        language_model = pretrained(base, trust_remote_code=options.trust_remote_code).load()
        adapter = checked_adapter(folder, language_model.model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = language_model.model.to(device)
        started = time.perf_counter()
        before = _evaluated(language_model, manager, options)
        between = time.perf_counter()
        with applied(model, adapter.detached_copy(device)):
            adapted = _evaluated(language_model, manager, options)
        ended = time.perf_counter()
    return Elsewhere(
        folder=folder.name,
        base=base.source,
        scores=paired_scores(before, adapted),
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        task_versions={task: str(found) for task, found in before.get("versions", {}).items()},
        versions={name: version(name) for name in _PACKAGES},
        seconds={"before": round(between - started, 3), "adapted": round(ended - between, 3)},
    )


def check_extra() -> None:
    """Raise :class:`ConfigError` where the harness is not installed."""
    if find_spec("lm_eval") is None:
        raise ConfigError("seal lm_eval needs lm-evaluation-harness: pip install 'seal-lightning[lm_eval]'")


def _evaluated(language_model: Any, manager: TaskManager, options: HarnessOptions) -> Any:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(
        pretrained=language_model.model,
        tokenizer=language_model.tokenizer,
        batch_size=options.batch_size,
        max_length=language_model.max_length,
    )
    if not sys.stderr.isatty():
        for ask in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            setattr(lm, ask, partial(getattr(lm, ask), disable_tqdm=True))
    tasks = _loaded(manager, options)
    state = random.getstate()
    try:
        with torch.random.fork_rng():
            random.seed(_SEED)
            torch.manual_seed(_SEED)
            return evaluate(lm=lm, task_dict=tasks, limit=options.limit, log_samples=True, bootstrap_iters=1000)
    except SealError:
        raise
    except Exception as error:  # a task's own code and templates raise what they like
        raise RunError(
            f"lm_eval: {', '.join(map(shown, options.tasks))} ended with {type(error).__name__}: {_first_line(error)}. "
            "Nothing was written"
        ) from error
    finally:
        random.setstate(state)


def _loaded(manager: TaskManager, options: HarnessOptions) -> Any:
    """Fresh tasks, so that both models are given the same worked examples."""
    try:
        loaded = manager.load(list(options.tasks))
    except Exception as error:
        raise RunError(
            f"--tasks: {', '.join(map(shown, options.tasks))} cannot be loaded: {type(error).__name__}: "
            f"{_first_line(error)}. A task of a hub needs the network (or its data in the hub's cache); "
            f"{DEFAULT_TASK} needs none. Nothing was written"
        ) from error
    for task in loaded["tasks"].values():
        of_task = task.get_config("num_fewshot")
        if options.num_fewshot is not None and of_task != 0:  # 0 in a task means never
            task.set_config(key="num_fewshot", value=options.num_fewshot)
        elif of_task is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_SEED)
    return loaded


def _check_loadable(manager: TaskManager, options: HarnessOptions) -> None:
    tasks = _loaded(manager, options)["tasks"]
    if not tasks:
        raise ConfigError(f"--tasks: {', '.join(map(shown, options.tasks))} hold no task; nothing was read")


def _task_manager(options: HarnessOptions, own: Path) -> TaskManager:
    """One that knows all tasks that are asked for. The harness's own, thousands of files, are read only if needed."""
    from lm_eval.tasks import TaskManager

    paths = [str(own), *([str(options.include_path)] if options.include_path else [])]
    try:
        manager = TaskManager(include_path=paths, include_defaults=False)
        if not set(options.tasks) <= set(manager.all_tasks):
            manager = TaskManager(include_path=paths)
    except Exception as error:
        raise ConfigError(
            f"--include_path: {shown(str(options.include_path))}: its tasks cannot be read: {_first_line(error)}"
        ) from error
    unknown = [task for task in options.tasks if task not in manager.all_tasks]
    if unknown:
        near = get_close_matches(unknown[0], manager.all_tasks, n=5, cutoff=0.5)
        raise ConfigError(
            f"--tasks: {shown(unknown[0])} is not there. "
            + (f"Near: {', '.join(near)}. " if near else "")
            + f"Allowed: {DEFAULT_TASK}, tasks of --include_path, and the harness's own (`lm_eval ls tasks`)"
        )
    return manager


def _own_task(scratch: Path) -> Path:
    """A folder with the task that comes with this package: the harness wants its data by absolute path."""
    own = scratch / "tasks"
    own.mkdir()
    data = Path(shutil.copy(PROBE_FILE, own))
    task = yaml.safe_load(_TASK_FILE.read_text(encoding="utf-8"))
    task["dataset_kwargs"]["data_files"]["test"] = str(data)
    (own / _TASK_FILE.name).write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return own


@contextmanager
def _datasets_in(scratch: Path) -> Iterator[None]:
    """Have data sets prepared there. The library reads its environment once, so the setting itself is changed."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = scratch / "datasets"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness tells its developers much."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return shown(text, 300)


def names(tasks: Sequence[str]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(tasks))
