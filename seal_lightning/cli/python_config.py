"""The ``config.yaml`` of a run that was built in Python, in the form that ``seal fit -c`` and ``seal test --run`` read."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from seal_lightning.core.configurable import Configurable, constructor_arguments


def run_settings(run_dir: Path, trainer: Mapping[str, Any], model: object, data: object) -> dict[str, Any]:
    """Return the settings of a run as plain values.

    Args:
        run_dir: the run's directory.
        trainer: the trainer's arguments; callbacks, loggers and strategies may be objects.
        model: the :class:`SealModule`.
        data: the :class:`SealDataModule`.

    Warns where an object does not keep its constructor's arguments: ``seal test --run`` then constructs it with defaults.
    """
    return {
        "seed_everything": False,
        "run_dir": str(run_dir),
        "trainer": {name: plain(value, f"trainer.{name}") for name, value in trainer.items()},
        "model": _arguments(model, "model"),
        "data": _arguments(data, "data"),
    }


def plain(value: Any, where: str) -> Any:
    """Return a value as YAML holds it: objects as ``class_path`` and ``init_args``, functions as their import path."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, where) for item in value]
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value) and not isinstance(value, (Configurable, Callback)):
        return _arguments(value, where)
    return {"class_path": _import_path(type(value)), "init_args": _arguments(value, where)}


def _arguments(instance: object, where: str) -> dict[str, Any]:
    arguments = constructor_arguments(instance)
    if arguments is None:
        if inspect.signature(type(instance)).parameters:
            warnings.warn(
                f"{where}: {type(instance).__name__} does not keep its constructor's arguments, so config.yaml names "
                "only its class. Derive it from seal_lightning.Configurable to have them stored",
                stacklevel=2,
            )
        return {}
    return {name: plain(value, f"{where}.{name}") for name, value in arguments.items()}


def _import_path(kind: type) -> str:
    """Return the shortest dotted path that leads to the class: that of the package that re-exports it, if one does."""
    parts = kind.__module__.split(".")
    for n in range(2, len(parts)):
        package = ".".join(parts[:n])
        if getattr(sys.modules.get(package), kind.__name__, None) is kind:
            return f"{package}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
