"""What was run: the settings that matter most, those in which runs differ, and the whole configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from seal_lightning.core.errors import shown
from seal_lightning.reporting.blocks import Block, Folded, Paragraph, Section, Table, capped
from seal_lightning.reporting.runs import StoredRun
from seal_lightning.reporting.text import label, visible

MAX_CONFIG_CHARACTERS = 60_000
MAX_DIFFERENCES = 40

_MAIN = {
    "model": "model.pretrained.source",
    "number type (dtype)": "model.pretrained.dtype",
    "domain": "model.domain",
    "format of the self-edits": "model.domain.init_args.format",
    "rounds": "model.rounds",
    "self-edits a task (k)": "model.num_edits",
    "inner runs an edit": "model.num_repeats",
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
_OF_THE_PLACE = {"seed_everything", "run_dir", "ckpt_path", "weights_only", "config", "resume"}
"""Settings that make no other run."""
_SECRET = re.compile(r"(api_?key|secret|password|passwd|credential|(^|_)token)s?$", re.IGNORECASE)


def settings_section(runs: Sequence[StoredRun]) -> Section:
    """The main settings side by side, then what differs, then everything, folded."""
    rows = []
    for name, path in _MAIN.items():
        values = [brief(_at(run.settings, path)) for run in runs]
        if any(value != "–" for value in values):
            rows.append((name, *values))
    blocks: list[Block] = []
    without = [run.name for run in runs if not run.settings]
    if without:
        blocks.append(Paragraph(text=f"No config.yaml was found for {', '.join(without)}."))
    if rows:
        headings = ("setting", *(run.name for run in runs))
        blocks.append(Table(title="Main settings", headings=headings, rows=tuple(rows), num_text_columns=len(headings)))
    if len(runs) > 1:
        blocks.append(_differences(runs))
    for run in runs:
        if run.settings:
            text = yaml.safe_dump(_without_secrets(run.settings), sort_keys=False, allow_unicode=True, width=110)
            blocks.append(Folded(title=f"All settings of {run.name}", text=visible(text, MAX_CONFIG_CHARACTERS)))
    return Section(title="Settings", blocks=tuple(blocks))


def differing_settings(runs: Sequence[StoredRun]) -> list[tuple[str, list[Any]]]:
    """Dotted names and each run's value of the settings that are not the same, seeds and places left out."""
    flat = [dict(_flat(_comparable(run.settings))) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [(name, [one.get(name) for one in flat]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values[1:])]


def are_seeds_of_one(runs: Sequence[StoredRun]) -> bool:
    """Whether runs differ in nothing but their seed, each having one of its own: then a mean over them means something."""
    seeds = [run.seed for run in runs]
    known = all(run.settings and isinstance(run.seed, int) for run in runs)
    return len(runs) > 1 and known and len(set(seeds)) == len(seeds) and not differing_settings(runs)


def domain_of(run: StoredRun) -> str:
    """The class path of the run's domain; empty where the configuration does not say."""
    domain = _at(run.settings, "model.domain.class_path")
    return domain if isinstance(domain, str) else ""


def reward_name(run: StoredRun) -> str:
    """The class of the run's reward, without its package; empty where the configuration does not say."""
    path = _at(run.settings, "model.reward.class_path")
    return label(path.rsplit(".", 1)[-1]) if isinstance(path, str) else ""


def _differences(runs: Sequence[StoredRun]) -> Block:
    found = differing_settings(runs)
    if not found:
        seeds = ", ".join(shown(run.seed, 30) for run in runs)
        return Paragraph(text=f"The runs differ in nothing but their seeds ({seeds}) and where they lie.")
    rows = [(label(name), *(brief(value, name) for value in values)) for name, values in found]
    headings = ("setting", *(run.name for run in runs))
    return Table(
        title="Settings in which the runs differ (beside the seed)",
        headings=headings,
        rows=capped(rows, MAX_DIFFERENCES),
        num_text_columns=len(headings),
    )


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_PLACE}
    model, trainer = kept.get("model"), kept.get("trainer")
    if isinstance(model, dict):
        kept["model"] = {key: value for key, value in model.items() if key != "seed"}
    if isinstance(trainer, dict):
        kept["trainer"] = {key: value for key, value in trainer.items() if key not in ("default_root_dir", "logger")}
    return kept


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


def brief(value: Any, name: str = "") -> str:
    """A setting in a cell: classes by their last name, their plain arguments behind them."""
    return label(_said(_without_secrets(value, name.rsplit(".", 1)[-1])), 300)


def _said(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(_said, value[:40])) or "–"
    if not isinstance(value, dict):
        return str(value)
    if isinstance(value.get("class_path"), str):
        arguments = value.get("init_args")
        plain = {k: v for k, v in arguments.items() if _is_plain(v)} if isinstance(arguments, dict) else {}
        name = value["class_path"].rsplit(".", 1)[-1]
        return f"{name} ({_said(plain)})" if plain else name
    return ", ".join(f"{key} {_said(item)}" for key, item in value.items() if item is not None) or "–"


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and 0 < len(value) <= 60)


def _without_secrets(value: Any, name: str = "") -> Any:
    """Pages are passed on; what a setting's name calls a secret is not."""
    if isinstance(value, dict):
        return {key: _without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, name) for item in value]
    return "(left out)" if isinstance(value, str) and value and _SECRET.search(name) else value
