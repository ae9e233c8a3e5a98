"""LoRA adapters at work: forward hooks on the linear layers, for the length of a ``with`` block.

So the base model keeps its modules, names and weights, DDP and FSDP see no parameter of the inner loop, and any number of
adapters of any shape can live at once. Two ways:

* :func:`applied`: one adapter for all rows, through autograd; how the policy trains (DDP must see its parameters).
* :func:`routed`: many adapters at once, each for its own rows; how candidates are trained and examined. Their gradients
  are added straight to buffers, because a graph of M adapters times all layers would cost more than the sums themselves.

Shapes: N rows or packed tokens, I inputs and O outputs of a linear layer, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from seal_lightning.errors import ModelError
from seal_lightning.lora.adapter import LoraAdapter

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def applied(model: PreTrainedModel, adapter: LoraAdapter) -> Iterator[None]:
    """The model computes with the adapter inside this block; gradients reach the adapter's tensors through autograd."""
    hooks = {name: _adding_hook(*pair, adapter.scaling) for name, pair in adapter.weights.items()}
    with _hooked(model, hooks):
        yield


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Dropout of one adapter's input: the next ``size`` rows draw from a generator of their own."""

    rate: float
    sizes: tuple[int, ...]
    generators: tuple[torch.Generator, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """Consecutive rows that belong to one adapter: sequences of a padded batch, or tokens of a packed row."""

    size: int
    adapter: LoraAdapter | None
    """None: the base model as it is."""
    gradients: dict[str, tuple[Tensor, Tensor]] | None = None
    """Where the gradients of A and B are added, by module name; None where nothing is trained."""
    dropout: Dropout | None = None


@contextmanager
def routed(model: PreTrainedModel, shares: Sequence[Share]) -> Iterator[None]:
    """Inside this block each share of the rows is computed with its own adapter; shares are in the order of the rows."""
    parts: dict[str, list[_Part]] = {}
    start = 0
    for share in shares:
        if share.adapter is not None:
            for name, (a, b) in share.adapter.weights.items():
                part = _Part(
                    start=start,
                    stop=start + share.size,
                    a=a,
                    b=b,
                    scaling=share.adapter.scaling,
                    gradients=share.gradients[name] if share.gradients is not None else None,
                    dropout=share.dropout,
                )
                parts.setdefault(name, []).append(part)
        start += share.size
    with _hooked(model, {name: _routing_hook(of_module, start) for name, of_module in parts.items()}):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One adapter's rows at one linear layer."""

    start: int
    stop: int
    a: Tensor
    """[R, I]"""
    b: Tensor
    """[O, R]"""
    scaling: float
    gradients: tuple[Tensor, Tensor] | None
    dropout: Dropout | None


@contextmanager
def _hooked(model: PreTrainedModel, hooks: dict[str, Hook]) -> Iterator[None]:
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding_hook(a: Tensor, b: Tensor, scaling: float) -> Hook:
    def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(a.dtype)
        return output + (F.linear(F.linear(x, a), b) * scaling).to(output.dtype)

    return add_update


def _routing_hook(parts: list[_Part], num_rows: int) -> Hook:
    trained = any(part.gradients is not None for part in parts)
    # Without it, the lowest adapted layer's output would need no gradient: its input has none and its weights are frozen.
    anchor = torch.zeros((), requires_grad=True) if trained else None

    def add_updates(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        positions = output.shape[:-1].numel()
        if positions % num_rows != 0:
            raise ModelError(
                f"{type(module).__name__} computes {positions} positions where {num_rows} rows were routed to adapters: "
                "layers that pick or repeat tokens (experts) cannot be adapted; leave them out of target_modules"
            )
        each = positions // num_rows
        if anchor is not None and torch.is_grad_enabled():
            updated: Tensor = _RoutedUpdate.apply(  # type: ignore[no-untyped-call]
                inputs[0], output, anchor, parts, each
            )
            return updated
        x_NI, output_NO = inputs[0].flatten(0, -2), output.view(positions, -1)
        for part in parts:
            rows = slice(part.start * each, part.stop * each)
            _add_update(part, x_NI[rows], output_NO[rows])
        return output

    return add_updates


def _add_update(part: _Part, x_NI: Tensor, output_NO: Tensor) -> tuple[Tensor, Tensor | None]:
    """Add scaling · B A x to the rows' output; returns A x and, with dropout, which inputs were kept (scaled to mean 1)."""
    x_NI = x_NI.to(part.a.dtype)
    kept_NI = _kept(part.dropout, x_NI) if part.dropout is not None else None
    if kept_NI is not None:
        x_NI = x_NI * kept_NI
    low_NR = x_NI @ part.a.T
    if output_NO.dtype == low_NR.dtype:
        output_NO.addmm_(low_NR, part.b.T, alpha=part.scaling)
    else:
        output_NO.copy_(torch.addmm(output_NO.to(low_NR.dtype), low_NR, part.b.T, alpha=part.scaling))
    return low_NR, kept_NI


def _kept(dropout: Dropout, x_NI: Tensor) -> Tensor:
    drawn = [
        torch.rand(size, x_NI.shape[1], generator=generator, device=generator.device)
        for size, generator in zip(dropout.sizes, dropout.generators, strict=True)
    ]
    return (torch.cat(drawn) >= dropout.rate).to(x_NI.dtype) / (1 - dropout.rate)


class _RoutedUpdate(torch.autograd.Function):
    """The base layer's output plus each adapter's update of its own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, anchor: Tensor, parts: list[_Part], each: int) -> Tensor:
        """``each`` is how many positions a routed row has here: 1 for packed tokens, a padded batch's length else."""
        updated = output.clone()  # in place, autograd could not follow what the base layer did before
        x_NI, output_NO = x.flatten(0, -2), updated.view(-1, output.shape[-1])
        lows, kept = [], []
        for part in parts:
            rows = slice(part.start * each, part.stop * each)
            low_NR, kept_NI = _add_update(part, x_NI[rows], output_NO[rows])
            lows.append(low_NR)
            kept.append(kept_NI)
        ctx.save_for_backward(x, *lows, *kept)
        ctx.parts, ctx.each = parts, each
        return updated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Add dA and dB to the adapters' buffers; return dx and the output's own gradient, which passes through."""
        x, *saved = ctx.saved_tensors
        lows, kept = saved[: len(ctx.parts)], saved[len(ctx.parts) :]
        x_NI, gradient_NO = x.flatten(0, -2), gradient.flatten(0, -2)
        dx_NI = torch.zeros_like(x_NI) if ctx.needs_input_grad[0] else None
        for part, low_NR, kept_NI in zip(ctx.parts, lows, kept, strict=True):
            rows = slice(part.start * ctx.each, part.stop * ctx.each)
            dy_NO = gradient_NO[rows].to(part.b.dtype)
            in_NI = x_NI[rows].to(part.a.dtype)
            dlow_NR = (dy_NO @ part.b).mul_(part.scaling)
            if part.gradients is not None:
                da_RI, db_OR = part.gradients
                da_RI.addmm_(dlow_NR.T, in_NI if kept_NI is None else in_NI * kept_NI)
                db_OR.addmm_(dy_NO.T, low_NR, alpha=part.scaling)
            if dx_NI is not None:
                back_NI = dlow_NR @ part.a
                dx_NI[rows] = (back_NI if kept_NI is None else back_NI * kept_NI).to(dx_NI.dtype)
        return dx_NI.view_as(x) if dx_NI is not None else None, gradient, None, None, None
