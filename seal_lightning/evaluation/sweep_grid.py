"""The grid of a sweep: the inner-loop settings that are tried, read from what a user writes on a command line.

Any field of :class:`AdapterSpec` and :class:`OptimizerSpec` can be in it; its types say which values are allowed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import AdaptationPlan, AdapterSpec, OptimizerSpec
from seal_lightning.core.errors import ConfigError, shown

_SPECS = {"adapter": AdapterSpec, "optimizer": OptimizerSpec}
_SPEC_OF = {each.name: part for part, spec in _SPECS.items() for each in fields(spec)}
_HINTS: dict[str, Any] = {name: hint for spec in _SPECS.values() for name, hint in get_type_hints(spec).items()}
_OVERRULED_BY = {"num_epochs": "max_steps", "warmup_ratio": "warmup_steps"}
"""Fields that mean nothing while another is set."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A point of the grid: what it changes of a plan's adapter and optimiser."""

    adapter: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """By field; fields in the order of the records, whatever the order of the grid."""
        return {**self.adapter, **self.optimizer}

    @property
    def name(self) -> str:
        """As the grid would say it."""
        return ",".join(f"{name}={written(value)}" for name, value in self.values.items())

    def applied(self, plan: AdaptationPlan) -> AdaptationPlan:
        """The plan under this setting."""
        adapter, optimizer = replace(plan.adapter, **self.adapter), replace(plan.optimizer, **self.optimizer)
        return replace(plan, adapter=adapter, optimizer=optimizer)


def read_grid(texts: Sequence[str], max_settings: int) -> list[Setting]:
    """The settings of ``FIELD=VALUE,VALUE`` …: every combination of the fields' values.

    Raises :class:`ConfigError` for what is no such field or value, for one given twice, and for more than
    ``max_settings`` ≥ 1 settings.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, options = text.partition("=")
        if not sign or name not in _SPEC_OF or name in values:
            raise ConfigError(
                f"--grid {shown(text)} is not allowed; it must be FIELD=VALUE or FIELD=VALUE,VALUE, each field once. "
                f"Fields: {', '.join(f'{known} ({_allowed(known)})' for known in _SPEC_OF)}"
            )
        values[name] = [_value(name, option) for option in options.split(",")]
        twice = [value for i, value in enumerate(values[name]) if value in values[name][:i]]
        if twice:
            raise ConfigError(f"--grid {shown(text)} is not allowed; {written(twice[0])} is given twice")
    if not values:
        raise ConfigError("--grid is empty; name at least one FIELD=VALUE,VALUE, for instance rank=32,64")
    if (count := math.prod(len(found) for found in values.values())) > max_settings:
        raise ConfigError(
            f"--grid has {count} settings; allowed are {max_settings} candidates. Raise --max, or leave some out"
        )
    names = [name for name in _SPEC_OF if name in values]
    points = itertools.product(*(values[name] for name in names))
    return [_setting(dict(zip(names, point, strict=True))) for point in points]


def check_effective(settings: Sequence[Setting], plans: Sequence[AdaptationPlan], *, adapters: bool = True) -> None:
    """Raise :class:`ConfigError` where a field of the grid means nothing.

    Because the plans have a setting that overrules it, or the inner loop makes nothing of ``adapters``.
    """
    swept = settings[0].values
    if strange := [] if adapters else [name for name in swept if _SPEC_OF[name] == _SPEC_OF["rank"]]:
        raise ConfigError(f"--grid {strange[0]} means nothing to the run's inner loop, which trains all weights")
    for name, other in _OVERRULED_BY.items():
        if name not in swept:
            continue
        applied = [setting.applied(plan).optimizer for setting in settings for plan in plans]
        if found := [value for optimizer in applied if (value := getattr(optimizer, other))]:
            nothing = written(getattr(OptimizerSpec(), other))
            raise ConfigError(
                f"--grid {name} means nothing while {other} is {found[0]}; leave one of them out, or set {other}={nothing}"
            )


def written(value: object) -> str:
    """A value as the grid says it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _setting(values: Mapping[str, Any]) -> Setting:
    of_part = {part: {n: value for n, value in values.items() if _SPEC_OF[n] == part} for part in _SPECS}
    return Setting(**of_part)


def _value(name: str, text: str) -> Any:
    """A field's value. Raises :class:`ConfigError` unless the field's type and bounds allow it."""
    parts = tuple(text.split("+"))
    readings = [*([None] if text == "null" else []), text, *([parts] if all(parts) else [])]
    for reading in readings:
        try:
            value = TypeAdapter(_HINTS[name]).validate_python(reading)
        except ValidationError:
            continue
        _SPECS[_SPEC_OF[name]](**{name: value})  # refuses what is out of bounds
        return value
    raise ConfigError(f"--grid {name}: {shown(text)} is not allowed; it must be {_allowed(name)}")


def _allowed(name: str) -> str:
    """A field's type, as it is written here."""
    hint = _HINTS[name]
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    text = re.sub(r"Literal\[([^]]*)\]", lambda found: found[1].replace("'", ""), text.replace("typing.", ""))
    text = re.sub(r"\bNone(Type)?\b", "null", re.sub(r"Union\[(.*)\]", r"\1", text))
    return text.replace("tuple[str, ...]", "NAME+NAME+…").replace("tuple[int, ...]", "0+1+…").replace(" | ", ", ")
