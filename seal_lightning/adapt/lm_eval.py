"""Side effects of an adaptation: the base and the adapted model under lm-evaluation-harness (the extra ``lm_eval``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from seal_lightning.adapt.adapters import pretrained_base
from seal_lightning.adapt.exam import PROBE_FILE
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.estimates import Estimate, estimate

PROBE_TASK = "seal_general_knowledge"
"""The probe of this package as a task; it needs no network."""
_TOLERANCE = 1e-6
"""A mean over samples that differs more from the reported value is not the metric (a perplexity, an F1 over all)."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One metric of one task for both models."""

    task: str
    metric: str
    """The harness's name with its filter (``acc,none``, ``exact_match,strict``)."""
    before: Estimate
    """With the harness's own standard error."""
    adapted: Estimate
    difference: Estimate
    """Adapted minus before; its standard error is paired over samples, None if the metric is not a mean over samples."""


def side_effects(
    folder: AdaptedFolder,
    tasks: Sequence[str] = (PROBE_TASK,),
    *,
    include_path: Path | None = None,
    trust_remote_code: bool = False,
    **options: int | None,
) -> list[TaskScore]:
    """Evaluate the base model and the adapted one on the same samples.

    Args:
        folder: the adapted folder.
        tasks: names of tasks, groups or tags of the harness, of ``include_path``, or :data:`PROBE_TASK`.
        include_path: a folder with tasks. Tasks may bring Python code, which runs: name only folders that you trust.
        trust_remote_code: whether code that comes with the base model may run.
        options: ``limit``, ``num_fewshot`` and ``batch_size`` of ``lm_eval.simple_evaluate``.

    Raises :class:`ConfigError` without the extra or for a base whose code is not trusted, :class:`RunError` for anything
    that the harness raises.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError("seal lm_eval needs lm-evaluation-harness: pip install 'seal-lightning[lm_eval]'")
    base = pretrained_base(folder.record().base, trust_remote_code)
    base_args: dict[str, Any] = {
        "pretrained": base.location(),
        "revision": base.revision or "main",
        "dtype": base.dtype,
        "trust_remote_code": base.trust_remote_code,
    }
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        named: list[Any] = [_probe_task() if task == PROBE_TASK else task for task in dict.fromkeys(tasks)]
        manager = TaskManager(include_path=include_path, include_defaults=False)
        # The harness's own thousands of task files are indexed only if one of them may be meant.
        if not {PROBE_TASK, *manager.all_tasks}.issuperset(tasks):
            manager = TaskManager(include_path=include_path)
        before, adapted = (
            simple_evaluate(
                model="hf",
                model_args={**base_args, **peft},
                tasks=named,
                task_manager=manager,
                device="cuda" if torch.cuda.is_available() else "cpu",
                bootstrap_iters=1000,
                **options,
            )
            for peft in ({}, {"peft": str(folder.adapter)})
        )
    except Exception as error:  # the harness, and the code and templates of tasks, raise anything
        message = shown(str(error).strip().split("\n", 1)[0], 300)
        raise RunError(
            f"lm_eval: {', '.join(map(shown, tasks))}: {type(error).__name__}: {message}. `lm_eval ls tasks` lists the "
            "harness's tasks, most of which need the network"
        ) from error
    return list(paired_scores(before, adapted))


def _probe_task() -> dict[str, Any]:
    """Return the probe's task, with its data by absolute path as the harness needs it."""
    task: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{PROBE_TASK}.yaml").read_text(encoding="utf-8"))
    return {**task, "dataset_kwargs": {"data_files": {"test": str(PROBE_FILE)}}}


def paired_scores(before: Mapping[str, Any], adapted: Mapping[str, Any]) -> Iterator[TaskScore]:
    """Pair the metrics of all tasks in two results of ``simple_evaluate``, samples included."""
    for task, reported in before["results"].items():
        for key, value in reported.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not _is_number(value):
                continue
            samples = [
                {one["doc_id"]: one.get(metric) for one in found["samples"].get(task, ()) if one["filter"] == filtered}
                for found in (before, adapted)
            ]
            yield TaskScore(
                task=task,
                metric=key,
                before=_reported(reported, key, len(samples[0])),
                adapted=_reported(adapted["results"][task], key, len(samples[1])),
                difference=_difference(adapted["results"][task][key] - value, *samples),
            )


def _reported(of_task: Mapping[str, Any], key: str, n: int) -> Estimate:
    error = of_task.get(key.replace(",", "_stderr,", 1))
    return Estimate(mean=float(of_task[key]), standard_error=error if _is_number(error) else None, n=n)


def _difference(reported: float, before: Mapping[Any, Any], adapted: Mapping[Any, Any]) -> Estimate:
    """Pair the samples, unless their mean difference is not the reported one."""
    if before.keys() == adapted.keys() and all(map(_is_number, [*before.values(), *adapted.values()])):
        found = estimate([adapted[sample] - before[sample] for sample in before])
        if found is not None and abs(found.mean - reported) <= _TOLERANCE:
            return found
    return Estimate(mean=reported, standard_error=None, n=len(before))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
