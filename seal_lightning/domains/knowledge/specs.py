"""Bounds of the inner loop's settings."""

from __future__ import annotations

from math import isfinite

from seal_lightning.errors import ConfigError, shown
from seal_lightning.types import AdapterSpec, OptimizerSpec


def validate_specs(adapter: AdapterSpec, optimizer: OptimizerSpec) -> None:
    """Check every field against its bounds. Raises :class:`ConfigError` with field, value and what is allowed."""
    validate_adapter(adapter)
    validate_optimizer(optimizer)


def validate_adapter(adapter: AdapterSpec) -> None:
    """Check every field against its bounds. Raises :class:`ConfigError`."""
    modules = adapter.target_modules
    _check(adapter.rank >= 1, "adapter.rank", adapter.rank, "1 or more")
    _check(isfinite(adapter.alpha) and adapter.alpha > 0, "adapter.alpha", adapter.alpha, "a finite number above 0")
    _check(0 <= adapter.dropout < 1, "adapter.dropout", adapter.dropout, "0 or more and below 1")
    _check(
        modules in (None, "all-linear") or (not isinstance(modules, str) and bool(modules) and all(modules)),
        "adapter.target_modules",
        modules,
        "a list of at least one module name, 'all-linear', or null for PEFT's default",
    )
    _check(
        adapter.layers is None or (len(adapter.layers) > 0 and min(adapter.layers) >= 0),
        "adapter.layers",
        adapter.layers,
        "a list of at least one layer index, each 0 or more, or null for all",
    )


def validate_optimizer(optimizer: OptimizerSpec) -> None:
    """Check every field against its bounds. Raises :class:`ConfigError`."""
    rate, decay, norm = optimizer.learning_rate, optimizer.weight_decay, optimizer.max_grad_norm
    schedules = ("linear", "cosine", "constant")
    _check(isfinite(rate) and rate > 0, "optimizer.learning_rate", rate, "a finite number above 0")
    _check(optimizer.num_epochs >= 1, "optimizer.num_epochs", optimizer.num_epochs, "1 or more")
    _check(optimizer.batch_size >= 1, "optimizer.batch_size", optimizer.batch_size, "1 or more")
    _check(
        optimizer.max_steps is None or optimizer.max_steps >= 1,
        "optimizer.max_steps",
        optimizer.max_steps,
        "1 or more, or null for num_epochs passes",
    )
    _check(optimizer.schedule in schedules, "optimizer.schedule", optimizer.schedule, ", ".join(schedules))
    _check(optimizer.warmup_steps >= 0, "optimizer.warmup_steps", optimizer.warmup_steps, "0 or more")
    _check(isfinite(decay) and decay >= 0, "optimizer.weight_decay", decay, "a finite number, 0 or more")
    _check(
        norm is None or (isfinite(norm) and norm > 0),
        "optimizer.max_grad_norm",
        norm,
        "a finite number above 0, or null for no clipping",
    )


def _check(fits: bool, field: str, value: object, allowed: str) -> None:
    if not fits:
        raise ConfigError(f"{field} is {shown(value)}; allowed is {allowed}")
