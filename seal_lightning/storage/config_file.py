"""A run's configuration, read as plain values: it may come with a run directory from anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.core.errors import RunError, shown

MAX_CONFIG_BYTES = 10 * 2**20
MAX_CONFIG_VALUES = 100_000
MAX_CONFIG_DEPTH = 100
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?")
"""YAML's numbers to the base of 60: to read one takes time that grows with the square of its length."""


def read_settings(path: Path) -> dict[str, Any]:
    """What the file says, as plain values. Raises :class:`RunError` when it is no configuration."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise RunError(f"{path} is no configuration: it has more than {MAX_CONFIG_BYTES >> 20} MiB")
    try:
        settings = plain_yaml(content)
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise RunError(f"{path} is no configuration of plain values ({reason}); nothing was run") from error
    if not isinstance(settings, dict):
        raise RunError(f"{path} is no configuration: it is a {type(settings).__name__}, expected a mapping")
    return settings


def plain_yaml(content: bytes) -> Any:
    """What a YAML text says, if that is no more than the text could say without aliases.

    Looked through as a stream first: nine aliases of nine aliases of … take no time to write and for ever to read.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    num_values = 0
    open_nodes: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}
    for event in yaml.parse(content, Loader=loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias {shown(anchor)} stands before the end of its anchor")
            num_values += sizes[anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            name, start = open_nodes.pop()
            if name is not None:
                sizes[name] = num_values - start
        elif isinstance(event, yaml.NodeEvent):
            num_values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((anchor, num_values - 1))
            elif anchor is not None:
                sizes[anchor] = 1
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > 100 and _SIXTIES.fullmatch(event.value):
                raise ValueError(f"{shown(event.value)} is too long for a number")
        if num_values > MAX_CONFIG_VALUES or len(open_nodes) > MAX_CONFIG_DEPTH:
            raise ValueError(
                f"it has more than {MAX_CONFIG_VALUES} values, its aliases written out, or more than {MAX_CONFIG_DEPTH} "
                "levels"
            )
    # The loader is one of the two safe ones, which bandit cannot see.
    return yaml.load(content, Loader=loader)  # noqa: S506  # nosec B506
