"""Where an adapter lies and to which base model it belongs: an adapted folder, or any PEFT folder with a LoRA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_lightning.adapt.record import AdaptedFolder, Asking, BaseModel
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.models.lora import base_of_adapter


@dataclass(frozen=True, kw_only=True)
class AdapterSource:
    """An adapter that was found, not loaded yet."""

    name: str
    """The folder's own name."""
    given: str
    """The path as it was given."""
    adapter: Path
    """The PEFT folder."""
    base: BaseModel
    asking: Asking | None
    """None of a plain PEFT folder, which does not say."""


def adapter_source(path: str | Path, what: str = "DIR") -> AdapterSource:
    """What lies at a path that a user named.

    Raises :class:`ConfigError` for what is no path of a folder, :class:`RunError` where nothing can be asked there or
    ``seal adapt`` has not ended, :class:`ModelError` for a PEFT configuration that is not loaded here.
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
    """The base model of all sources, of which there is at least one.

    Code that comes with a model runs only where the user says so here: a folder may come from anybody.

    Raises :class:`ConfigError` that names two sources of different bases, and one that wants to run code.
    """
    # A plain PEFT folder says nothing of the type, so it goes with those that do.
    first = next((source for source in sources if source.asking is not None), sources[0])
    for source in sources:
        same_type = source.asking is None or source.base.dtype == first.base.dtype
        if source.base.identity() != first.base.identity() or not same_type:
            raise ConfigError(
                f"DIR: {shown(first.given)} belongs to the base model {first.base.described()} in {first.base.dtype} and "
                f"{shown(source.given)} to {source.base.described()} in {source.base.dtype}; all must have one base. Serve "
                "them one by one, each on a port of its own"
            )
        if source.base.trust_remote_code and not trust_remote_code:
            raise ConfigError(
                f"DIR: {shown(source.given)} says that its base model {source.base.described()} comes with code that is to "
                "run here. If you trust that model's makers, add --trust_remote_code; nothing was loaded"
            )
    return BaseModel(
        source=first.base.source,
        revision=first.base.revision,
        dtype=first.base.dtype,
        trust_remote_code=trust_remote_code and any(source.base.trust_remote_code for source in sources),
    )


def check_names(sources: Sequence[AdapterSource], taken: Sequence[str]) -> None:
    """Raise :class:`ConfigError` where two folders have one name, or one that the base model has."""
    paths: dict[str, str] = {}
    for source in sources:
        if source.name in taken:
            raise ConfigError(
                f"DIR: the folder {shown(source.given)} has the name {shown(source.name)}, which is the base model's. Rename "
                "the folder"
            )
        if source.name in paths:
            raise ConfigError(
                f"DIR: {shown(paths[source.name])} and {shown(source.given)} have one name, {shown(source.name)}; a model "
                "is asked for by its folder's name. Rename one of the folders"
            )
        paths[source.name] = source.given


def base_name(base: BaseModel) -> str:
    """What the base model is called: its hub id or ``embedded``; of a local folder its last part, so no path is told."""
    return Path(base.source).resolve().name if os.path.isdir(base.source) else base.source
