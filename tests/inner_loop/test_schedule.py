"""Our learning-rate factors against transformers' schedules, step by step."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
import torch
from transformers import get_scheduler

from seal_lightning.core import OptimizerSpec
from seal_lightning.core.errors import ConfigError
from seal_lightning.inner_loop.schedule import learning_rate_factor

Name = Literal["linear", "cosine", "constant"]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("num_steps", "warmup_steps"), [(1, 0), (10, 0), (37, 0), (37, 5), (10, 10), (5, 20)])
def test_learning_rate_factor_equals_transformers(name: Name, num_steps: int, warmup_steps: int) -> None:
    theirs_name = "constant_with_warmup" if name == "constant" else name
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(theirs_name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps)
    spec = OptimizerSpec(schedule=name, warmup_steps=warmup_steps)
    for step in range(num_steps):
        assert learning_rate_factor(spec, step, num_steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-15)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_learning_rate_factor_decays_to_zero(name: Name) -> None:
    spec = OptimizerSpec(schedule=name)
    factors = [learning_rate_factor(spec, step, 8) for step in range(8)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert 0 < factors[-1] < 0.2
    assert learning_rate_factor(spec, 8, 8) == pytest.approx(0, abs=1e-15)
    assert learning_rate_factor(OptimizerSpec(), 100, 8) == 0.0


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(
    ("ratio", "num_steps", "warmup_steps"), [(0.03, 100, 3), (0.03, 101, 4), (0.03, 1, 1), (0.5, 9, 5), (0.0, 9, 0)]
)
def test_warmup_ratio_is_rounded_up(name: Name, ratio: float, num_steps: int, warmup_steps: int) -> None:
    by_ratio = OptimizerSpec(schedule=name, warmup_ratio=ratio)
    by_steps = OptimizerSpec(schedule=name, warmup_steps=warmup_steps)
    factors = [learning_rate_factor(by_ratio, step, num_steps) for step in range(num_steps)]
    assert factors == [learning_rate_factor(by_steps, step, num_steps) for step in range(num_steps)]
    assert sum(b > a for a, b in pairwise(factors)) == min(warmup_steps, num_steps - 1)


def test_warmup_steps_precede_a_ratio() -> None:
    both = OptimizerSpec(warmup_steps=2, warmup_ratio=0.5)
    steps = OptimizerSpec(warmup_steps=2)
    assert [learning_rate_factor(both, i, 20) for i in range(20)] == [
        learning_rate_factor(steps, i, 20) for i in range(20)
    ]


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_warmup_ratio_leaves_something_to_train(ratio: float) -> None:
    with pytest.raises(ConfigError, match="warmup_ratio"):
        OptimizerSpec(warmup_ratio=ratio)


@pytest.mark.parametrize("warmup", [{"warmup_steps": 11}, {"warmup_ratio": 0.1}])
def test_single_step_has_no_warmup(warmup: dict[str, float]) -> None:
    """transformers would train it with a learning rate of 0."""
    assert learning_rate_factor(OptimizerSpec(schedule="cosine", **warmup), 0, 1) == 1.0  # type: ignore[arg-type]
