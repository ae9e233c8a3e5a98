"""Model card of an adapter: Markdown with the front matter that the Hugging Face hub reads. No torch.

A document's name may be anything, so it is escaped; of a path only the last part is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from jinja2 import BaseLoader, Environment, StrictUndefined

from seal_lightning.adapt.record import AdaptedRecord, BaseModel, ExamRecord, held_before, is_hub_id
from seal_lightning.core import JSON
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.core.names import is_url
from seal_lightning.reporting.text import escape_markdown, shown_seconds

EMBEDDED = "embedded"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The origin of the embedded model, whose own weights are rounded to 4 bits."""

_PATH = re.compile(r"(~[^/\\\s]*[/\\]|\.{0,2}/|\.{1,2}\\|\\\\|[A-Za-z]:[/\\])[^\n]*[^\s/\\.~][^\n]*\Z")
"""A text of one line that begins as a path on any system; separators alone are not a path."""
_PATH_SETTING = re.compile("(.*_)?(source|path|file|folder|dir|server|url|uri)s?")
"""Names of settings that hold files, folders or addresses: ``examples_path``, ``base_url``."""
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+")


def model_card(record: AdaptedRecord, name: str) -> str:
    """Return the card of an adapted folder of this name; it is valid UTF-8 and shows no path of this machine."""
    environment = Environment(  # nosec B701
        loader=BaseLoader(),
        autoescape=False,  # noqa: S701 (for HTML; Markdown is escaped by `plain`)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "plain": escape_markdown,
        "base_name": last_part,
        "estimate": shown_estimate,
        "forgotten": _forgotten,
    }
    template = environment.from_string((files("seal_lightning.adapt") / "card.md.jinja").read_text(encoding="utf-8"))
    text = template.render(
        front_matter=_front_matter(record.base),
        name=name,
        record=record,
        base=hub_name(record.base),
        embedded=record.base.source == EMBEDDED,
        merged=record.merged,
        held_before=held_before(record),
        probes=[exam for exam in record.exams if exam.name == "probe"],
        by_model=any(exam.by == "the model" for exam in record.exams),
        settings=_settings(record.settings),
        seconds=", ".join(f"{escape_markdown(k)} {shown_seconds(s)}" for k, s in record.seconds.items())
        or "not measured",
        versions=", ".join(f"{escape_markdown(k)} {escape_markdown(v)}" for k, v in record.versions.items())
        or "unknown",
    )
    return re.sub("\n{3,}", "\n\n", text)


def hub_id(base: BaseModel) -> str | None:
    """Return the base model's hub id; None for a folder on this machine."""
    if base.source == EMBEDDED:
        return EMBEDDED_HUB_ID
    return base.source if is_hub_id(base.source) else None


def hub_name(base: BaseModel) -> str:
    """Return the base model's name for others: its hub id, or the last part of a local folder."""
    return hub_id(base) or last_part(base.source)


def last_part(path: str) -> str:
    """Return the last part of a path of any system; a text without separators as it is."""
    return PureWindowsPath(PurePosixPath(path).name).name or "…"


def _front_matter(base: BaseModel) -> str:
    from huggingface_hub import ModelCardData

    name = hub_id(base)
    tags = ["lora", "seal", "self-edits", *([] if name is None else [f"base_model:adapter:{name}"])]
    data = ModelCardData(base_model=name, library_name="peft", pipeline_tag="text-generation", tags=tags)
    return str(data.to_yaml()).strip()


def _settings(settings: Mapping[str, JSON]) -> str:
    """Return the settings as YAML without paths, and without backticks that would end the fence around it."""
    text = yaml.safe_dump(_without_paths(dict(settings)), allow_unicode=False, sort_keys=False, width=100)
    return re.sub("`{3,}", "``", text.strip())


def _without_paths(value: Any, key: str = "") -> Any:
    """Reduce every path in a setting named ``key`` to its last part, and hide addresses."""
    if isinstance(value, dict):
        return {
            last_part(str(name)) if _PATH.match(str(name)) else str(name): _without_paths(inner, str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_paths(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    if _ADDRESS.match(value):
        return "(an address)"
    if _PATH_SETTING.fullmatch(key) and not (key == "source" and is_hub_id(value)):
        return "(an address)" if is_url(value) else last_part(value) if re.search(r"[/\\]", value) else value
    return last_part(value) if _PATH.match(value) else _ADDRESS.sub("(an address)", value)


def _forgotten(probe: ExamRecord) -> str:
    """Return a sentence on the probe before and after."""
    scores = {one.condition: one for one in probe.scores}
    before, adapted = scores.get("before"), scores.get("adapted")
    found = []
    if adapted is not None and adapted.gain is not None:
        change = shown_estimate(adapted.gain, signed=True)
        found.append(f"the log-probability of the right answers changed by {change} nats")
    if before is not None and adapted is not None and before.accuracy is not None:
        accuracies = [shown_estimate(one.accuracy) for one in (before, adapted)]
        found.append(f"accuracy went from {accuracies[0]} to {accuracies[1]}")
    return ", ".join(found) or "nothing was measured"
