"""Comparison of what the ranks start from: they would silently compute different runs otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

import seal_lightning
from seal_lightning.core import Task
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.distributed import interruption

PACKAGES = ("torch", "transformers", "peft", "lightning")
_OF_THE_HOST = ("run_dir", "ckpt_path", "weights_only", "config", "trainer.default_root_dir")
"""Settings that may differ between hosts: other checks compare the files they lead to."""
_SAMPLED_TENSORS = 6
_SAMPLED_VALUES = 4096
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class RanksDiffer(ConfigError):
    """Ranks have different settings, data, packages or weights."""


def require_agreement(mine: Mapping[str, str]) -> None:
    """Compare what the ranks have; a collective, which a stop or a failed rank ends.

    Args:
        mine: by name (``data.train, task 3``), this rank's values or their digests, in a few characters each.

    Raises :class:`RanksDiffer` on every rank, which names the first rank that differs from rank 0, and the value.
    """
    everyone = interruption.gather([(socket.gethostname(), dict(mine))])
    first_host, first = everyone[0]
    for rank, (host, theirs) in enumerate(everyone):
        for name in dict.fromkeys([*first, *theirs]):
            if first.get(name) != theirs.get(name):
                raise RanksDiffer(
                    f"the ranks differ in {name}: rank {rank} (host {host}) has {theirs.get(name, 'nothing')}, rank 0 (host "
                    f"{first_host}) has {first.get(name, 'nothing')}. Start every rank with the same command, files and "
                    "packages"
                )


@cache
def installed() -> dict[str, str]:
    """Return the packages' versions, and a digest of this package's source: clones differ without a version."""
    found = {"Python": platform.python_version(), "seal_lightning": seal_lightning.__version__}
    found |= {name: version(name) for name in PACKAGES}
    digest = hashlib.sha256()
    root = Path(seal_lightning.__file__).parent
    for folder in (root, root / "callbacks"):  # a link in a clone, which rglob does not follow
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    found["the source of seal_lightning"] = digest.hexdigest()[:12]
    return {f"packages, {name}": value for name, value in found.items()}


def settings_part(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return a configuration by dotted name, absolute paths masked: hosts may have the same files elsewhere."""
    return {
        f"the configuration, {name}": shown(_without_path(value))
        for name, value in _flat(settings)
        if not name.startswith(_OF_THE_HOST)
    }


def tasks_part(split: str, tasks: Sequence[Task]) -> dict[str, str]:
    """Return a split's tasks in order, each by its id and a digest of its content."""
    return {
        f"data.{split}, task {number}": f"{shown(task.task_id)} with content {content_digest(task)}"
        for number, task in enumerate(tasks)
    }


def weights_part(model: nn.Module, vocabulary: Mapping[str, int]) -> dict[str, str]:
    """Return digests of a loaded model: its configuration, its tokens, and a few values of a few tensors.

    Weights that are sharded or on the meta device are skipped.
    """
    config = getattr(model, "config", None)
    settings: dict[str, Any] = config.to_dict() if isinstance(config, PretrainedConfig) else {}
    kept = {name: value for name, value in settings.items() if name not in ("_name_or_path", "name_or_path")}
    whole = [(name, p) for name, p in model.named_parameters() if type(p.data) is torch.Tensor and not p.is_meta]
    step = max(1, len(whole) // _SAMPLED_TENSORS)
    digests = {
        "configuration": content_digest(kept),
        "tokens": content_digest(sorted(vocabulary.items())),
        "tensors": str(len(whole)),
        **{name: _tensor_digest(tensor) for name, tensor in whole[::step]},
    }
    return {f"model.pretrained, {name}": value for name, value in digests.items()}


def _tensor_digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    sampled = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)].cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(sampled.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def content_digest(value: Any) -> str:
    """Return twelve characters that are the same in every process for equal records, containers, numbers and strings."""
    return hashlib.sha256(json.dumps(_jsonable(value)).encode()).hexdigest()[:12]


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: [_jsonable(getattr(value, field.name)) for field in fields(value)]}
    if isinstance(value, Mapping):
        return [[_jsonable(key), _jsonable(item)] for key, item in value.items()]
    if isinstance(value, set | frozenset):  # their order differs between processes
        return sorted(json.dumps(_jsonable(item)) for item in value)
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, str | int | float | None):
        return value
    if hasattr(value, "tolist"):  # arrays and tensors, whose repr is abbreviated
        return value.tolist()
    return _ADDRESS.sub("", repr(value))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from _flat({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _without_path(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_path(item) for item in value]
    return "a path" if isinstance(value, str) and os.path.isabs(value) else value
