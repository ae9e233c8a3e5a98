"""The model card of an adapter: Markdown with front matter as the Hugging Face hub reads it. No torch.

Names of documents come from anywhere: they are escaped, and of paths the last part alone is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from jinja2 import BaseLoader, Environment, StrictUndefined
from pydantic import TypeAdapter, ValidationError

from seal_lightning.adapt.record import AdaptedRecord, BaseModel, ExamRecord, MergedFrom, held_before
from seal_lightning.core import JSON
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.core.names import is_url
from seal_lightning.reporting.markdown import escaped
from seal_lightning.reporting.text import shown_seconds

EMBEDDED = "embedded"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the embedded model was made from; its own weights are rounded to 4 bits."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PLACES = re.compile("(source|path|file|folder|dir|server|url|uri)s?")
"""Last words of the names of settings that name files, folders or addresses: ``examples_path``, ``base_url``."""
_PATH = re.compile(r"(~[^/\\\s]*[/\\]|\.{0,2}/|\.{1,2}\\|\\\\|[A-Za-z]:[/\\])[^\n]*[^\s/\\.~][^\n]*\Z")
"""A text of one line that begins as a path, in whatever system; one of separators alone is none."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEME_WITHIN = re.compile(rf"\b{_SCHEME.pattern}\S+")
_MERGED_FROM = TypeAdapter(MergedFrom)
_BACKTICKS = re.compile("`{3,}")


def model_card(record: AdaptedRecord, name: str) -> str:
    """The card of an adapted folder of this name; its text is valid UTF-8 and names no place on this machine."""
    environment = Environment(  # nosec B701
        loader=BaseLoader(),
        autoescape=False,  # noqa: S701 (that is for HTML; Markdown is escaped by `plain`)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "plain": escaped,
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
        merged=_merged_from(record),
        documents=record.documents,
        held_before=held_before(record),
        probes=[exam for exam in record.exams if exam.name == "probe"],
        asks_itself=any(exam.by == "the model" for exam in record.exams),
        settings=_settings(record.settings),
        seconds=", ".join(f"{escaped(k)} {shown_seconds(s)}" for k, s in record.seconds.items()) or "not measured",
        versions=", ".join(f"{escaped(k)} {escaped(v)}" for k, v in record.versions.items()) or "not known",
    )
    return re.sub("\n{3,}", "\n\n", text)


def hub_id(base: BaseModel) -> str | None:
    """What a hub knows the base model by; None of a folder on this machine."""
    if base.source == EMBEDDED:
        return EMBEDDED_HUB_ID
    return base.source if _HUB_ID.fullmatch(base.source) and not os.path.isdir(base.source) else None


def hub_name(base: BaseModel) -> str:
    """What others know the base model by: a hub id; of a folder on this machine its last part."""
    return hub_id(base) or last_part(base.source)


def last_part(path: str) -> str:
    """Of a path, in whatever system it was written; a text without separators as it is."""
    return PureWindowsPath(PurePosixPath(path).name).name or "…"


def _front_matter(base: BaseModel) -> str:
    from huggingface_hub import ModelCardData

    name = hub_id(base)
    tags = ["lora", "seal", "self-edits", *([] if name is None else [f"base_model:adapter:{name}"])]
    data = ModelCardData(base_model=name, library_name="peft", pipeline_tag="text-generation", tags=tags)
    return str(data.to_yaml()).strip()


def _merged_from(record: AdaptedRecord) -> MergedFrom | None:
    """A record may come from anybody: what is no such description is left among the settings."""
    try:
        return _MERGED_FROM.validate_python(record.settings["merged"]) if "merged" in record.settings else None
    except ValidationError:
        return None


def _settings(settings: Mapping[str, JSON]) -> str:
    """As YAML without paths, and nothing that could end the fence it stands in."""
    text = yaml.safe_dump(_without_places(dict(settings)), allow_unicode=False, sort_keys=False, width=100).strip()
    return _BACKTICKS.sub("``", text)


def _without_places(value: Any, key: str = "") -> Any:
    """A setting with what names a place on this machine or in its network reduced to a last part.

    ``key`` is the setting's name: where that names places, every text does, else one that begins as a path or an address.
    """
    if isinstance(value, dict):
        return _with_plain_keys(value, key)
    if isinstance(value, list | tuple):
        return [_without_places(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    names_place = _PLACES.fullmatch(key.rpartition("_")[2]) is not None
    if _SCHEME.match(value) or (names_place and is_url(value)):
        return "(an address)"
    if names_place:
        known = key == "source" and _HUB_ID.fullmatch(value) and not os.path.isdir(value)
        return value if known else last_part(value) if _has_separator(value) else value
    return last_part(value) if _PATH.match(value) else _SCHEME_WITHIN.sub("(an address)", value)


def _with_plain_keys(values: Mapping[Any, Any], key: str) -> dict[str, Any]:
    """Those that name places reduced too (a merge names folders by their paths where names do not tell them apart)."""
    plain: dict[str, Any] = {}
    for name, inner in values.items():
        text = str(name)
        told = last_part(text) if _PATH.match(text) or (key == "weights" and _has_separator(text)) else text
        number = 2
        unique = told
        while unique in plain:
            unique, number = f"{told} ({number})", number + 1
        plain[unique] = _without_places(inner, text)
    return plain


def _has_separator(text: str) -> bool:
    return "/" in text or "\\" in text


def _forgotten(probe: ExamRecord) -> str:
    return ", ".join(_losses(probe)) or "nothing was measured"


def _losses(probe: ExamRecord) -> Iterator[str]:
    before, adapted = probe.scores_of("before"), probe.scores_of("adapted")
    if before is None or adapted is None:
        return
    if adapted.gain is not None:
        yield f"the log-probability of the right answers changed by {shown_estimate(adapted.gain, signed=True)} nats"
    if before.accuracy is not None and adapted.accuracy is not None:
        yield f"accuracy went from {shown_estimate(before.accuracy)} to {shown_estimate(adapted.accuracy)}"
