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

from seal_lightning.core.errors import ModelError
from seal_lightning.models.lora.adapter import LoraAdapter
from seal_lightning.models.lora.updates import Dropout, GroupedUpdate, Groups, Part, can_be_grouped, grouped_update

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def applied(model: PreTrainedModel, adapter: LoraAdapter) -> Iterator[None]:
    """The model computes with the adapter inside this block; gradients reach the adapter's tensors through autograd."""
    hooks = {name: _adding_hook(*pair, adapter.scaling) for name, pair in adapter.weights.items()}
    with _hooked(model, hooks):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterRows:
    """Consecutive rows that belong to one adapter: sequences of a padded batch, or tokens of a packed row."""

    size: int
    adapter: LoraAdapter | None
    """None: the base model as it is."""
    gradients: dict[str, tuple[Tensor, Tensor]] | None = None
    """Where the gradients of A and B are added, by module name; None where nothing is trained."""
    dropout: Dropout | None = None


@contextmanager
def routed(model: PreTrainedModel, shares: Sequence[AdapterRows]) -> Iterator[None]:
    """Inside this block each share of the rows is computed with its own adapter; shares are in the order of the rows."""
    parts: dict[str, list[Part]] = {}
    start = 0
    for share in shares:
        if share.adapter is not None:
            for name, (a, b) in share.adapter.weights.items():
                part = Part(
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


def _routing_hook(parts: list[Part], num_rows: int) -> Hook:
    trained = any(part.gradients is not None for part in parts)
    # Without it, the lowest adapted layer's output would need no gradient: its input has none and its weights are frozen.
    anchor = torch.zeros((), requires_grad=True) if trained else None
    groups: list[Groups] = []

    def add_updates(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        positions = output.shape[:-1].numel()
        if positions % num_rows != 0:
            raise ModelError(
                f"{type(module).__name__} computes {positions} positions where {num_rows} rows were routed to adapters: "
                "layers that pick or repeat tokens (experts) cannot be adapted; leave them out of target_modules"
            )
        each = positions // num_rows
        x_NI, output_NO = inputs[0].flatten(0, -2), output.flatten(0, -2)
        with torch.autocast(x_NI.device.type, enabled=False):  # the parts see to their types themselves
            return updated(x_NI, output_NO, each).view_as(output)

    def updated(x_NI: Tensor, output_NO: Tensor, each: int) -> Tensor:
        trains = anchor is not None and torch.is_grad_enabled()
        if can_be_grouped(x_NI, output_NO, parts):
            if not groups:
                groups.append(Groups(parts, num_rows, x_NI.dtype))
            if trains:
                return GroupedUpdate.apply(x_NI, output_NO, anchor, groups[0])  # type: ignore[no-any-return, no-untyped-call]
            return grouped_update(x_NI, output_NO, groups[0], each)[0]
        if trains:
            return _RoutedUpdate.apply(x_NI, output_NO, anchor, parts)  # type: ignore[no-any-return, no-untyped-call]
        for part in parts:
            part.add_update(x_NI[part.rows(each)], output_NO[part.rows(each)])
        return output_NO

    return add_updates


class _RoutedUpdate(torch.autograd.Function):
    """The base layer's output plus each adapter's update of its own rows, for packed tokens."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, output_NO: Tensor, anchor: Tensor, parts: list[Part]) -> Tensor:
        """A new tensor: in place, autograd could not follow what the base layer did before."""
        updated_NO = output_NO.clone()
        made = [part.add_update(x_NI[part.rows(1)], updated_NO[part.rows(1)]) for part in parts]
        ctx.save_for_backward(x_NI, *(low for low, _ in made), *(kept for _, kept in made))
        ctx.parts = parts
        return updated_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        """Add dA and dB to the adapters' buffers; return dx and the output's own gradient, which passes through."""
        parts: list[Part] = ctx.parts
        x_NI, *saved = ctx.saved_tensors
        whole = sum(part.stop - part.start for part in parts) == len(x_NI)
        dx_NI = (torch.empty_like(x_NI) if whole else torch.zeros_like(x_NI)) if ctx.needs_input_grad[0] else None
        for part, low_NR, kept_NI in zip(parts, saved[: len(parts)], saved[len(parts) :], strict=True):
            rows = part.rows(1)
            with torch.autocast(x_NI.device.type, enabled=False):
                part.add_gradients(x_NI[rows], low_NR, kept_NI, dy_NO[rows], None if dx_NI is None else dx_NI[rows])
        return dx_NI, dy_NO, None, None
