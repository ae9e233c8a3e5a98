"""Folders with an adapter and their base model: an adapted folder, or any PEFT folder with a LoRA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal_lightning.adapt.record import AdaptedFolder, Asking, BaseModel
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.models.lora import base_of_adapter


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter on disk, not loaded yet."""

    name: str
    """The folder's own name."""
    given: str
    """The path as the user gave it."""
    adapter: Path
    """The PEFT folder."""
    base: BaseModel
    asking: Asking | None
    """None for a plain PEFT folder, which does not say."""


def adapter_source(path: str | Path, what: str = "DIR") -> AdapterSource:
    """Return the adapter at a path that a user named.

    Raises :class:`ConfigError` for a path that cannot be a folder, :class:`RunError` for a missing folder or an unfinished
    ``seal adapt``, :class:`ModelError` for an invalid PEFT configuration.
    """
    folder = checked_run_dir(path, what)
    if not folder.is_dir():
        raise RunError(f"{what}: {shown(str(path))} is not there. Give a folder that `seal adapt` or PEFT wrote")
    if (folder / "adapter_config.json").exists() and not (folder / "adapted.json").exists():
        source, revision = base_of_adapter(folder)
        base = BaseModel(source=source, revision=revision)
        return AdapterSource(name=folder.resolve().name, given=str(path), adapter=folder, base=base, asking=None)
    adapted = AdaptedFolder.named(path, what)
    record = adapted.record()
    return AdapterSource(
        name=adapted.name, given=str(path), adapter=adapted.adapter, base=record.base, asking=record.asking
    )


def common_base(sources: Sequence[AdapterSource], *, trust_remote_code: bool = False) -> BaseModel:
    """Return the base model of all sources, of which there is at least one.

    Code of a model runs only where the user allows it: a folder may come from anybody.

    Raises :class:`ConfigError` for two sources of different bases, and for one that needs to run code.
    """
    # A plain PEFT folder does not name a dtype, so it goes with those that do.
    first = next((source for source in sources if source.asking is not None), sources[0])
    for source in sources:
        same_dtype = source.asking is None or source.base.dtype == first.base.dtype
        if source.base.identity() != first.base.identity() or not same_dtype:
            raise ConfigError(
                f"DIR: {shown(first.given)} has the base model {first.base.described()} in {first.base.dtype}, but "
                f"{shown(source.given)} has {source.base.described()} in {source.base.dtype}; all must have one base. Serve "
                "them separately, each on its own port"
            )
        if source.base.trust_remote_code and not trust_remote_code:
            raise ConfigError(
                f"DIR: the base model {source.base.described()} of {shown(source.given)} comes with code. If you trust its "
                "makers, add --trust_remote_code to run it"
            )
    return replace(first.base, trust_remote_code=any(source.base.trust_remote_code for source in sources))


def check_names(sources: Sequence[AdapterSource], reserved: Sequence[str]) -> None:
    """Raise :class:`ConfigError` where two folders have one name, or one of the base model's."""
    paths: dict[str, str] = dict.fromkeys(reserved, "the base model")
    for source in sources:
        if source.name in paths:
            raise ConfigError(
                f"DIR: {paths[source.name]} and {shown(source.given)} have one name, {shown(source.name)}, by which a model "
                "is chosen. Rename the folder"
            )
        paths[source.name] = shown(source.given)


def base_name(base: BaseModel) -> str:
    """Return the base model's name: its hub id or ``embedded``; of a local folder the last part, which shows no path."""
    return Path(base.source).resolve().name if os.path.isdir(base.source) else base.source
