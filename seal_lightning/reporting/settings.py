"""The report's section on settings: the main ones side by side, those in which runs differ, and all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from seal_lightning.core.errors import shown
from seal_lightning.reporting.document import Block, Folded, ReportSection, Table, TextBlock, capped
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.text import excerpt, label

MAX_CONFIG_CHARACTERS = 60_000
MAX_DIFFERENCES = 40

_MAIN = {
    "model": "model.pretrained.source",
    "number type (dtype)": "model.pretrained.dtype",
    "domain": "model.domain",
    "format of the self-edits": "model.domain.init_args.format",
    "rounds": "model.rounds",
    "self-edits per task (k)": "model.num_edits",
    "inner runs per edit": "model.num_repeats",
    "reward": "model.reward",
    "grader": "model.grader",
    "inner loop": "model.inner_loop",
    "inner loop: adapter": "model.domain.init_args.adapter",
    "inner loop: optimiser": "model.domain.init_args.optimizer",
    "sampling": "model.sampling",
    "M-step: adapter": "model.policy_adapter",
    "M-step: optimiser": "model.reinforce",
    "reward filter and callbacks": "trainer.callbacks",
    "training tasks": "data.train",
    "held-out tasks of the configuration": "data.test",
    "protocol of the test": "model.protocol",
    "precision": "trainer.precision",
    "seed": "model.seed",
}
_SAME_RUN = re.compile(
    r"(seed_everything|run_dir|ckpt_path|weights_only|config|resume|model\.seed|trainer\.default_root_dir|trainer\.logger)\b"
)
"""Settings that do not distinguish runs, beside the seed: where files lie, how the run was started."""
_SECRET = re.compile(r"(api_?key|secret|password|passwd|credential|(^|_)token)s?$", re.IGNORECASE)


def settings_section(runs: Sequence[StoredRun]) -> ReportSection:
    """Return the section: main settings side by side, differences, and each run's configuration, folded."""
    rows = [(name, *(brief(_at(run.settings, path)) for run in runs)) for name, path in _MAIN.items()]
    known = tuple(row for row in rows if any(cell != "–" for cell in row[1:]))
    blocks: list[Block] = []
    if without := [run.name for run in runs if not run.settings]:
        blocks.append(TextBlock(text=f"No config.yaml was found for {', '.join(without)}."))
    if known:
        blocks.append(_table("Main settings", runs, known))
    if len(runs) > 1:
        blocks.append(_differences(runs))
    for run in runs:
        if run.settings:
            text = yaml.safe_dump(_without_secrets(run.settings), sort_keys=False, allow_unicode=True, width=110)
            blocks.append(Folded(title=f"All settings of {run.name}", text=excerpt(text, MAX_CONFIG_CHARACTERS)))
    return ReportSection(title="Settings", blocks=tuple(blocks))


def run_differences(runs: Sequence[StoredRun]) -> list[tuple[str, list[Any]]]:
    """Return name and each run's value of the settings that differ, except seed and folders."""
    flat = [dict(_flat(run.settings)) for run in runs]
    names = [name for name in dict.fromkeys(name for one in flat for name in one) if not _SAME_RUN.match(name)]
    rows = [(name, [one.get(name) for one in flat]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values[1:])]


def are_seeds_of_one(runs: Sequence[StoredRun]) -> bool:
    """Return whether the runs differ in nothing but their seeds: only then is a mean over them shown."""
    seeds = [run.seed for run in runs]
    known = all(isinstance(seed, int) for seed in seeds)
    return len(runs) > 1 and known and len(set(seeds)) == len(seeds) and not run_differences(runs)


def class_name(run: StoredRun, path: str) -> str:
    """Return the class at a dotted path of the configuration, without its package; empty where unknown."""
    return label(class_path(run, path).rsplit(".", 1)[-1])


def class_path(run: StoredRun, path: str) -> str:
    """Return the class path at a dotted path of the configuration; empty where unknown."""
    found = _at(run.settings, f"{path}.class_path")
    return found if isinstance(found, str) else ""


def brief(value: Any, name: str = "") -> str:
    """Return a setting as a cell: classes by their last name, with their plain arguments."""
    return label(_written(_without_secrets(value, name.rsplit(".", 1)[-1])), 300)


def _differences(runs: Sequence[StoredRun]) -> Block:
    found = run_differences(runs)
    if not found:
        seeds = ", ".join(shown(run.seed, 30) for run in runs)
        return TextBlock(text=f"The runs differ only in their seeds ({seeds}) and folders.")
    rows = [(label(name), *(brief(value, name) for value in values)) for name, values in found]
    return _table("Settings in which the runs differ (beside the seed)", runs, capped(rows, MAX_DIFFERENCES))


def _table(title: str, runs: Sequence[StoredRun], rows: tuple[tuple[str, ...], ...]) -> Table:
    headings = ("setting", *(run.name for run in runs))
    return Table(title=title, headings=headings, rows=rows, text_columns=range(len(headings)))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _at(settings: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(settings, dict):
            return None
        settings = settings.get(key)
    return settings


def _written(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(_written, value[:40])) or "–"
    if not isinstance(value, dict):
        return str(value)
    if isinstance(value.get("class_path"), str):
        arguments = value.get("init_args") or {}
        plain = {k: v for k, v in arguments.items() if isinstance(v, int | float | str) and 0 < len(str(v)) <= 60}
        name = value["class_path"].rsplit(".", 1)[-1]
        return f"{name} ({_written(plain)})" if plain else name
    return ", ".join(f"{key} {_written(item)}" for key, item in value.items() if item is not None) or "–"


def _without_secrets(value: Any, name: str = "") -> Any:
    """Return a setting without values whose names say that they are secret: reports are passed on."""
    if isinstance(value, dict):
        return {key: _without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, name) for item in value]
    return "(hidden)" if isinstance(value, str) and value and _SECRET.search(name) else value
