"""Whether all ranks start from the same things: they would silently compute different runs otherwise."""

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

import seal_lightning
from seal_lightning.core import Task
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.distributed import interruption

Part = dict[str, str]
"""What a rank has, by name, in a few characters each; the order counts."""

PACKAGES = ("torch", "transformers", "peft", "lightning")
_OF_THE_PLACE = ("run_dir", "ckpt_path", "weights_only", "config", "trainer.default_root_dir")
"""Settings that each host may have its own of: that they lead to the same is seen elsewhere."""
_SAMPLED_TENSORS = 6
_SAMPLED_VALUES = 4096
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class RanksDiffer(ConfigError):
    """Ranks have different settings, data, packages or weights."""


def require_agreement(parts: Mapping[str, Part]) -> None:
    """Compare what the ranks have; a collective, in which a stop and a rank that failed are heard.

    Args:
        parts: by what it is (``data.train``), what this rank has.

    Raises :class:`RanksDiffer` on every rank, which names the first rank that is unlike rank 0, and in what.
    """
    mine = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if len(set(interruption.gather([mine]))) == 1:
        return
    # Only now are they sent as a whole: names of tasks by the thousand.
    everyone = interruption.gather([(socket.gethostname(), dict(parts))])
    first_host, first = everyone[0]
    for rank, (host, theirs) in enumerate(everyone):
        found = _first_difference(first, theirs)
        if found is not None:
            what, name, expected, got = found
            raise RanksDiffer(
                f"the ranks differ in {what}, {name}: rank {rank} (host {host}) has {got}, rank 0 (host {first_host}) has "
                f"{expected}. Nothing was started. Give every rank the same command, files and packages"
            )


def _first_difference(first: Mapping[str, Part], other: Mapping[str, Part]) -> tuple[str, str, str, str] | None:
    for what in dict.fromkeys([*first, *other]):
        ours, theirs = first.get(what, {}), other.get(what, {})
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name):
                return what, name, ours.get(name, "nothing there"), theirs.get(name, "nothing there")
    return None


@cache
def installed() -> Part:
    """The versions of what computes, and a digest of this package's source: clones differ without a version."""
    found = {"Python": platform.python_version(), "seal_lightning": seal_lightning.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    digest = hashlib.sha256()
    root = Path(seal_lightning.__file__).parent
    for folder in (root, root / "callbacks"):  # a link in a clone, which rglob does not follow
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found | {"the source of seal_lightning": digest.hexdigest()[:12]}


def of_settings(settings: Mapping[str, Any]) -> Part:
    """A configuration by dotted name, without the paths in it: hosts may have them elsewhere, their content is compared."""
    return {name: shown(_without_path(value)) for name, value in _flat(settings) if not name.startswith(_OF_THE_PLACE)}


def of_tasks(tasks: Sequence[Task]) -> Part:
    """Tasks in order, each by its id and a digest of all it holds."""
    return {
        f"task {number}": f"{shown(task.task_id)} with content {content_digest(task)}"
        for number, task in enumerate(tasks)
    }


def of_weights(model: nn.Module, vocabulary: Mapping[str, int]) -> Part:
    """A loaded model: its configuration, its tokens, and a few values of a few tensors, which is cheap for any size.

    Weights that are spread over the ranks, or not there yet, are left out.
    """
    config = getattr(model, "config", None)
    settings: dict[str, Any] = config.to_dict() if isinstance(config, PretrainedConfig) else {}
    kept = {name: value for name, value in settings.items() if name not in ("_name_or_path", "name_or_path")}
    whole = [(name, p) for name, p in model.named_parameters() if type(p.data) is torch.Tensor and not p.is_meta]
    step = max(1, len(whole) // _SAMPLED_TENSORS)
    parts = {
        "configuration": content_digest(json.loads(json.dumps(kept, default=str))),
        "tokens": content_digest(json.dumps(dict(vocabulary), sort_keys=True)),
        "tensors": str(len(whole)),
    }
    return parts | {name: _tensor_digest(tensor) for name, tensor in whole[::step]}


def _tensor_digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    sampled = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)].cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(sampled.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def content_digest(value: Any) -> str:
    """Twelve characters that are the same in every process for equal records, containers, numbers and texts."""
    return hashlib.sha256("\0".join(_written(value, 0)).encode(errors="surrogatepass")).hexdigest()[:12]


def _written(value: Any, depth: int) -> Iterable[str]:
    kind = type(value).__name__
    if depth > 20:
        yield kind
    elif is_dataclass(value) and not isinstance(value, type):
        yield kind
        for field in fields(value):
            yield from (field.name, *_written(getattr(value, field.name), depth + 1))
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}"
        for key, item in value.items():
            yield from (*_written(key, depth + 1), *_written(item, depth + 1))
    elif isinstance(value, set | frozenset):  # whose order is another one in every process
        yield from (kind, *sorted("\1".join(_written(item, depth + 1)) for item in value))
    elif isinstance(value, list | tuple):
        yield f"sequence of {len(value)}"
        for item in value:
            yield from _written(item, depth + 1)
    elif hasattr(value, "tolist"):  # arrays and tensors, whose repr leaves out most of them
        yield from _written(value.tolist(), depth + 1)
    else:
        yield f"{kind} {_ADDRESS.sub('', repr(value))}"


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
