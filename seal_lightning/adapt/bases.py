"""The base model of an adapted folder: named, loaded, or as a skeleton without weights that an adapter is checked on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.record import BaseModel
from seal_lightning.core.errors import ConfigError, ModelError, shown
from seal_lightning.models.lora import LoraAdapter, load_adapter
from seal_lightning.models.pretrained import EMBEDDED, Pretrained, embedded_folder


def pretrained(base: BaseModel, *, trust_remote_code: bool = False) -> Pretrained:
    """The base model, to be loaded in the type that the folder names.

    Code that comes with a model runs only where the user says so here too: a folder may come from anybody. Raises
    :class:`ConfigError` for a base that needs it and was not trusted.
    """
    if base.trust_remote_code and not trust_remote_code:
        raise ConfigError(
            f"DIR: the base model {shown(base.source)} comes with code that is to run here. If you trust its makers, add "
            "--trust_remote_code; nothing was loaded"
        )
    return Pretrained(
        source=base.source, revision=base.revision, dtype=base.dtype, trust_remote_code=base.trust_remote_code
    )


def skeleton(base: BaseModel, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base model without weights. Raises :class:`ModelError` where its configuration cannot be had, and as
    :func:`pretrained`."""
    named = pretrained(base, trust_remote_code=trust_remote_code)
    options = {"revision": named.revision, "trust_remote_code": named.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(named.location(), **options)  # nosec B615
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=named.trust_remote_code)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().split("\n", 1)[0]
        raise ModelError(
            f"DIR: the base model {shown(base.source)} cannot be had ({shown(first_line, 200)}); an adapter is of no use "
            "without it. Put it back in its place, or make its hub reachable"
        ) from error
    return cast(PreTrainedModel, model)


def checked_adapter(folder: AdaptedFolder, model: PreTrainedModel) -> LoraAdapter:
    """A folder's adapter, checked on its base model or its skeleton.

    Raises :class:`ModelError` for one that is damaged or does not fit.
    """
    try:
        return load_adapter(model, folder.adapter)
    except (ModelError, ConfigError) as error:
        raise ModelError(f"DIR: the adapter of {shown(str(folder.path))} is not loaded: {error}") from error


def common_base(folders: Sequence[AdaptedFolder]) -> BaseModel:
    """The base model of all folders, at least one. Raises :class:`ConfigError` that names two which differ."""
    bases = [folder.record().base for folder in folders]
    for folder, base in zip(folders, bases, strict=True):
        if identity(base) != identity(bases[0]):
            raise ConfigError(
                f"DIR: {shown(str(folders[0].path))} belongs to the base model {described(bases[0])} and "
                f"{shown(str(folder.path))} to {described(base)}; updates of one base only can be added. Nothing was "
                "written"
            )
    return bases[0]


def identity(base: BaseModel) -> tuple[str, str | None]:
    """What two folders of one base have in common, however its folder was written."""
    source = str(embedded_folder()) if base.source == EMBEDDED else base.source
    return (os.path.realpath(source) if os.path.isdir(source) else source), base.revision


def described(base: BaseModel) -> str:
    """As a message names it."""
    return shown(base.source) + (f" at {shown(base.revision)}" if base.revision else "")
