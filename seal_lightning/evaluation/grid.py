"""The grid of ``seal sweep`` and ``seal search``: its axes, and the paired comparison of its points.

An axis is a field of :class:`AdapterSpec` or :class:`OptimizerSpec`, or a choice of the edit's schema. Every point meets the
same tasks with the same inner seeds, so points are compared in pairs, task by task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from random import Random
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    Attempt,
    AttemptStatus,
    Choice,
    OptimizerSpec,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.estimates import Estimate, cluster_means, estimate

_SPECS = {"adapter": AdapterSpec, "optimizer": OptimizerSpec}
_SPEC_OF = {each.name: part for part, spec in _SPECS.items() for each in fields(spec)}
_HINTS: dict[str, Any] = {name: hint for spec in _SPECS.values() for name, hint in get_type_hints(spec).items()}
_OVERRULED_BY = {"num_epochs": "max_steps", "warmup_ratio": "warmup_steps"}
"""Fields that have no effect while another one is set."""
FAILED = (AttemptStatus.DIVERGED, AttemptStatus.MALFORMED)


# --- settings of the inner loop


@dataclass(frozen=True, kw_only=True)
class GridSetting:
    """A point of the inner-loop axes: what it changes of a plan's adapter and optimiser."""

    adapter: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """Value by field, in the order of the records."""
        return {**self.adapter, **self.optimizer}

    @property
    def name(self) -> str:
        """The point as the grid writes it."""
        return ",".join(f"{name}={written(value)}" for name, value in self.values.items())

    def applied(self, plan: AdaptationPlan) -> AdaptationPlan:
        """Return a plan with this setting."""
        adapter, optimizer = replace(plan.adapter, **self.adapter), replace(plan.optimizer, **self.optimizer)
        return replace(plan, adapter=adapter, optimizer=optimizer)


def read_grid(texts: Sequence[str], max_settings: int) -> list[GridSetting]:
    """Return every combination of the values of ``FIELD=VALUE,VALUE`` …

    Raises :class:`ConfigError` for an invalid field or value, for duplicates, and for more than ``max_settings`` settings.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, options = text.partition("=")
        if not sign or name not in _SPEC_OF or name in values:
            raise ConfigError(
                f"--grid {shown(text)} is not allowed; it must be FIELD=VALUE or FIELD=VALUE,VALUE, each field once. "
                f"Fields: {', '.join(f'{known} ({_allowed_values(known)})' for known in _SPEC_OF)}"
            )
        values[name] = [_value(name, option) for option in options.split(",")]
        if twice := [value for i, value in enumerate(values[name]) if value in values[name][:i]]:
            raise ConfigError(f"--grid {shown(text)} is not allowed; {written(twice[0])} is given twice")
    if not values:
        raise ConfigError("--grid is empty; name at least one FIELD=VALUE,VALUE, for instance rank=32,64")
    if (count := math.prod(len(found) for found in values.values())) > max_settings:
        raise ConfigError(
            f"--grid has {count} settings; allowed are {max_settings} candidates. Raise --max, or remove some"
        )
    names = [name for name in _SPEC_OF if name in values]
    return [
        GridSetting(
            **{part: {n: v for n, v in zip(names, point, strict=True) if _SPEC_OF[n] == part} for part in _SPECS}
        )
        for point in product(*(values[name] for name in names))
    ]


def check_effective(settings: Sequence[GridSetting], plans: Sequence[AdaptationPlan], *, adapters: bool = True) -> None:
    """Raise :class:`ConfigError` where a field of the grid has no effect.

    Either another field of the plans overrules it, or the inner loop has no ``adapters``.
    """
    swept = settings[0].values
    if strange := [] if adapters else list(settings[0].adapter):
        raise ConfigError(f"--grid {strange[0]} has no effect: the run's inner loop trains all weights")
    for name, other in _OVERRULED_BY.items():
        applied = [setting.applied(plan).optimizer for setting in settings for plan in plans if name in swept]
        if found := [value for optimizer in applied if (value := getattr(optimizer, other))]:
            unset = written(getattr(OptimizerSpec(), other))
            raise ConfigError(
                f"--grid {name} has no effect while {other} is {found[0]}; remove one of them, or set {other}={unset}"
            )


def written(value: object) -> str:
    """Return a value as the grid writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(name: str, text: str) -> Any:
    """Parse a field's value. Raises :class:`ConfigError` unless its type and bounds allow it."""
    parts = tuple(text.split("+"))
    for reading in (*([None] if text == "null" else []), text, *([parts] if all(parts) else [])):
        try:
            value = TypeAdapter(_HINTS[name]).validate_python(reading)
        except ValidationError:
            continue
        _SPECS[_SPEC_OF[name]](**{name: value})  # raises where it is out of bounds
        return value
    raise ConfigError(f"--grid {name}: {shown(text)} is not allowed; it must be {_allowed_values(name)}")


def _allowed_values(name: str) -> str:
    """Return a field's type as the grid writes its values."""
    hint = _HINTS[name]
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    text = re.sub(r"Literal\[([^]]*)\]", lambda found: found[1].replace("'", ""), text.replace("typing.", ""))
    text = re.sub(r"\bNone(Type)?\b", "null", re.sub(r"Union\[(.*)\]", r"\1", text))
    return text.replace("tuple[str, ...]", "NAME+NAME+…").replace("tuple[int, ...]", "0+1+…").replace(" | ", ", ")


# --- choices of the edit's schema


@dataclass(frozen=True, kw_only=True)
class EditChoices:
    """A point of the schema's axes: one option for each choice."""

    index: int
    """Index among all points of the schema; the first choice changes slowest."""
    choices: dict[str, str]


def edit_choices(
    schema: TextSchema, allowed: Mapping[str, Sequence[str]], limit: int | None = None, seed: int = 0
) -> list[EditChoices]:
    """Return the points of a schema with the allowed options, in order; all, or a random sample.

    Args:
        schema: as :meth:`seal_lightning.core.interfaces.Domain.edit_schema` returns it.
        allowed: the options to keep, for some of the choices by name.
        limit: ≥ 1, the size of the sample, drawn without replacement; None takes all.
        seed: of the sample.

    Raises:
        ConfigError: the schema lacks a choice or an option of ``allowed``.
    """
    choices = [part for part in schema if isinstance(part, Choice)]
    by_name = {choice.name: {option.strip() for option in choice.options} for choice in choices}
    for name, options in allowed.items():
        if name not in by_name:
            raise ConfigError(
                f"{shown(name)} is not a choice of the edit's schema; its choices are {', '.join(by_name)}"
            )
        if unknown := [option for option in options if option.strip() not in by_name[name]]:
            raise ConfigError(f"{name}={shown(unknown[0])}: allowed are {', '.join(sorted(by_name[name]))}")
    named = [{name.strip() for name in allowed.get(choice.name, choice.options)} for choice in choices]
    kept = [[o for o in c.options if o.strip() in names] for c, names in zip(choices, named, strict=True)]
    found = []
    for picked in _sampled(kept, limit, seed):
        index = 0
        for choice, option in zip(choices, picked, strict=True):
            index = index * len(choice.options) + choice.options.index(option)
        by_choice = {choice.name: option for choice, option in zip(choices, picked, strict=True)}
        found.append(EditChoices(index=index, choices=by_choice))
    return found


def _sampled(options: Sequence[Sequence[str]], limit: int | None, seed: int) -> Iterable[tuple[str, ...]]:
    total = math.prod(map(len, options))
    if limit is None or limit >= total:
        return product(*options)
    drawn = {*Random(seed).sample(range(total), limit)}  # noqa: S311 - a sample, no secret
    return (picked for i, picked in enumerate(product(*options)) if i in drawn)


# --- comparison

P = TypeVar("P", GridSetting, EditChoices)


@dataclass(frozen=True, kw_only=True)
class GridRow(Generic[P]):
    """The scores of one point of the grid."""

    point: P
    score: Estimate | None
    """Mean over tasks of the mean over their edits and inner seeds; None when nothing was scored."""
    by_task: Mapping[str, float]
    num_edits: int
    """Edits of all tasks together."""
    num_failed: int
    """Candidates that diverged or were malformed."""
    num_unscored: int
    """Candidates that could not be scored; they count in no mean."""
    num_tokens: float | None
    """Trained on, mean per candidate that did not fail."""
    seconds: float
    """Of adapting, mean per candidate; candidates that train together share them by their tokens."""
    is_best: bool = False
    difference: Estimate | None = None
    """From the best point, paired by task."""
    within_noise: bool | None = None
    """See :func:`is_within_noise`."""


def grid_rows(
    attempts: Sequence[tuple[P, Sequence[Attempt]]],
    score: Callable[[Attempt], float | None],
    *,
    failed_last: bool = False,
) -> list[GridRow[P]]:
    """Return a row per point, the best first; of equal ones the cheaper first.

    Args:
        attempts: each point with its attempts.
        score: of an attempt; None counts in no mean.
        failed_last: whether points with fewer failed or unscored attempts precede all others.
    """

    def order(row: GridRow[P]) -> tuple[int, bool, float, float]:
        failed = row.num_failed + row.num_unscored if failed_last else 0
        return failed, row.score is None, -row.score.mean if row.score else 0.0, row.num_tokens or 0.0

    rows = sorted((_row(point, of_point, score) for point, of_point in attempts), key=order)
    compared: list[GridRow[P]] = [replace(rows[0], is_best=True)]
    for row in rows[1:]:
        difference = paired_estimate(row.by_task, rows[0].by_task)
        compared.append(replace(row, difference=difference, within_noise=is_within_noise(difference)))
    return compared


def _row(point: P, attempts: Sequence[Attempt], score: Callable[[Attempt], float | None]) -> GridRow[P]:
    by_task = cluster_means((a.task_id, value) for a in attempts if (value := score(a)) is not None)
    trained = [a.plan.num_tokens for a in attempts if a.plan is not None and a.status not in FAILED]
    return GridRow(
        point=point,
        score=estimate(list(by_task.values())),
        by_task=by_task,
        num_edits=len({(a.task_id, a.edit.edit_index) for a in attempts}),
        num_failed=sum(a.status in FAILED for a in attempts),
        num_unscored=sum(a.status is AttemptStatus.UNSCORED for a in attempts),
        num_tokens=sum(trained) / len(trained) if trained else None,
        seconds=sum(a.adapt_seconds for a in attempts) / len(attempts),
    )


def paired_estimate(scores: Mapping[str, float], others: Mapping[str, float]) -> Estimate | None:
    """Return the mean difference of scores from others, over the tasks that both have."""
    return estimate([scores[task_id] - others[task_id] for task_id in scores if task_id in others])


def cheapest_within_noise(rows: Sequence[GridRow[P]]) -> GridRow[P]:
    """Return the row with the fewest tokens among the best one and those within the noise of it."""
    alike = [row for row in rows if row.is_best or (row.within_noise and row.num_tokens is not None)]
    return min(alike, key=lambda row: row.num_tokens or 0.0)


def is_within_noise(difference: Estimate | None) -> bool | None:
    """Return whether 0 is in the difference's 95 % interval (Student's t); None without a standard error."""
    if difference is None or difference.standard_error is None:
        return None
    from scipy.stats import t as student  # half a second: only when settings are compared

    critical = float(student.ppf(0.975, difference.n - 1))
    return difference.mean == 0 or abs(difference.mean) < critical * difference.standard_error
