"""Linear layers with frozen weights, computed by oneDNN on a CPU.

A frozen layer's backward pass is one product with its weight, so both directions can use the fastest kernel. For float32
torch takes MKL; at the tens to hundreds of rows of self-edits oneDNN is faster
(``tests/benchmarks/frozen_linear.py``: 0.9 to 1.8 times, median 1.2, on two cores of an AMD EPYC).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., in] · weight [out, in]ᵀ (any strides) + bias [out]; the weight gets no gradient."""
    if x.device.type == "cpu" and not x.is_contiguous():
        # In bfloat16 torch 2.13 takes 50 times as long for a slice (the last positions, before the output head).
        x = x.contiguous()
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _FrozenProduct.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return _onednn(x, weight, bias)


def freeze_linears(model: nn.Module) -> None:
    """Let a model's plain linear layers use :func:`frozen_linear`; names, weights and isinstance checks do not change."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.requires_grad_(False)
            module.__class__ = FrozenLinear


class FrozenLinear(nn.Linear):
    """A linear layer with a frozen weight; if the weight is set to require gradients, torch computes it as usual."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] from [..., in]."""
        return frozen_linear(x, self.weight, self.bias)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return frozen_linear(gradient, ctx.weight.t()), None, None


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.numel() > 0
        and not weight.requires_grad
        and _AVAILABLE
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


_AVAILABLE: bool = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)
