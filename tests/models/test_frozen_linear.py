"""The frozen linear layer against torch's, in every shape that reaches it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seal_lightning.models import frozen_linear as module
from seal_lightning.models.frozen_linear import FrozenLinear, freeze_linears, frozen_linear


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        normal(6, 16),
        normal(2, 3, 16),
        normal(16),
        normal(0, 16),
        normal(16, 6).t(),
        normal(6, 32)[:, ::2],
        normal(1, 16).expand(5, 16),
    ],
    ids=["rows", "batch", "vector", "none", "transposed", "strided", "expanded"],
)
def test_frozen_linear_equals_torch(
    monkeypatch: pytest.MonkeyPatch, available: bool, dtype: torch.dtype, biased: bool, x: Tensor
) -> None:
    monkeypatch.setattr(module, "_AVAILABLE", available and module._AVAILABLE)
    weight, bias = normal(8, 16, seed=1, dtype=dtype), normal(8, seed=2, dtype=dtype) if biased else None
    ours, theirs = (x.to(dtype).detach().requires_grad_() for _ in range(2))
    out, expected = frozen_linear(ours, weight, bias), F.linear(theirs, weight, bias)
    assert torch.allclose(out, expected, rtol=1e-5, atol=1e-5)
    slope = normal(*expected.shape, seed=3, dtype=dtype)
    out.backward(slope)
    expected.backward(slope)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_freeze_linears_keeps_names_and_types() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = normal(3, 4)
    expected = model(x)
    freeze_linears(model)
    assert [type(layer) for layer in model] == [FrozenLinear, nn.ReLU, FrozenLinear]
    assert isinstance(model[0], nn.Linear)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert not any(p.requires_grad for p in model.parameters())


def test_frozen_linear_trains_if_unfrozen() -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    freeze_linears(model)
    model.requires_grad_(True)
    model(normal(3, 4)).sum().backward()
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.any()


def test_frozen_linear_rounds_as_torch_under_autocast() -> None:
    weight, x = normal(8, 16, seed=1), normal(6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(frozen_linear(x, weight).float(), F.linear(x, weight).float(), rtol=0.02, atol=0.05)
