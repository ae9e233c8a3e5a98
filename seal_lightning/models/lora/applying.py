"""Context managers that apply LoRA adapters by forward hooks on the linear layers.

So the base model keeps its modules, names and weights, DDP and FSDP see no parameter of the inner loop, and any number of
adapters of any shape can be applied at once. Two ways:

* :func:`applied`: one adapter for all rows, through autograd; how the policy trains (DDP must see its parameters).
* :func:`routed`: many adapters at once, each for its own rows; how candidates are trained and evaluated. Their gradients
  are added directly to buffers, because a graph of M adapters times all layers would cost more than the sums themselves.

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
from seal_lightning.models.lora.updates import Dropout, GroupedUpdate, Groups, RowUpdate, can_be_grouped, grouped_update

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def applied(model: PreTrainedModel, adapter: LoraAdapter) -> Iterator[None]:
    """Apply an adapter to all rows inside this block; gradients reach the adapter's tensors through autograd."""
    hooks = {name: _adding_hook(*pair, adapter.scaling) for name, pair in adapter.weights.items()}
    with _hooked(model, hooks):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterRows:
    """Consecutive rows with the same adapter: sequences of a padded batch, or tokens of a packed row."""

    size: int
    adapter: LoraAdapter | None
    """None: the base model."""
    gradients: dict[str, tuple[Tensor, Tensor]] | None = None
    """Buffers to which the gradients of A and B are added, by module name; None where nothing is trained."""
    dropout: Dropout | None = None


@contextmanager
def routed(model: PreTrainedModel, rows: Sequence[AdapterRows]) -> Iterator[None]:
    """Compute each part of the rows with its own adapter inside this block; ``rows`` are in the order of the batch."""
    updates: dict[str, list[RowUpdate]] = {}
    start = 0
    for part in rows:
        if part.adapter is not None:
            for name, (a, b) in part.adapter.weights.items():
                update = RowUpdate(
                    start=start,
                    stop=start + part.size,
                    a=a,
                    b=b,
                    scaling=part.adapter.scaling,
                    gradients=part.gradients[name] if part.gradients is not None else None,
                    dropout=part.dropout,
                )
                updates.setdefault(name, []).append(update)
        start += part.size
    with _hooked(model, {name: _routing_hook(of_module, start) for name, of_module in updates.items()}):
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


def _routing_hook(updates: list[RowUpdate], num_rows: int) -> Hook:
    trained = any(update.gradients is not None for update in updates)
    # Without it, the lowest adapted layer's output would need no gradient: its input has none and its weights are frozen.
    anchor = torch.zeros((), requires_grad=True) if trained else None
    groups: list[Groups] = []

    def add_updates(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        total = output.shape[:-1].numel()
        if total % num_rows != 0:
            raise ModelError(
                f"{type(module).__name__} computes {total} positions where {num_rows} rows were routed to adapters: "
                "layers that pick or repeat tokens (experts) cannot be adapted; remove them from target_modules"
            )
        x_NI, output_NO = inputs[0].flatten(0, -2), output.flatten(0, -2)
        with torch.autocast(x_NI.device.type, enabled=False):  # the updates convert types themselves
            return updated(x_NI, output_NO, total // num_rows).view_as(output)

    def updated(x_NI: Tensor, output_NO: Tensor, num_positions: int) -> Tensor:
        trains = anchor is not None and torch.is_grad_enabled()
        if can_be_grouped(x_NI, output_NO, updates):
            if not groups:
                groups.append(Groups(updates, num_rows, x_NI.dtype))
            if trains:
                return GroupedUpdate.apply(x_NI, output_NO, anchor, groups[0])  # type: ignore[no-any-return, no-untyped-call]
            return grouped_update(x_NI, output_NO, groups[0], num_positions)[0]
        if trains:
            return _RoutedUpdate.apply(x_NI, output_NO, anchor, updates)  # type: ignore[no-any-return, no-untyped-call]
        for update in updates:
            update.add_to(x_NI[update.rows(num_positions)], output_NO[update.rows(num_positions)])
        return output_NO

    return add_updates


class _RoutedUpdate(torch.autograd.Function):
    """The base layer's output plus each adapter's update of its own rows, for packed tokens."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, output_NO: Tensor, anchor: Tensor, updates: list[RowUpdate]) -> Tensor:
        """Return a new tensor [N, O]: in place, autograd could not follow the base layer's computation."""
        updated_NO = output_NO.clone()
        made = [update.add_to(x_NI[update.rows(1)], updated_NO[update.rows(1)]) for update in updates]
        ctx.save_for_backward(x_NI, *(low for low, _ in made), *(mask for _, mask in made))
        ctx.updates = updates
        return updated_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        """Add dA and dB to the adapters' buffers; return dx and the output's own gradient, which passes through."""
        updates: list[RowUpdate] = ctx.updates
        x_NI, *saved = ctx.saved_tensors
        covered = sum(update.stop - update.start for update in updates) == len(x_NI)
        dx_NI = (torch.empty_like(x_NI) if covered else torch.zeros_like(x_NI)) if ctx.needs_input_grad[0] else None
        for update, low_NR, mask_NI in zip(updates, saved[: len(updates)], saved[len(updates) :], strict=True):
            rows = update.rows(1)
            with torch.autocast(x_NI.device.type, enabled=False):
                update.add_gradients(x_NI[rows], low_NR, mask_NI, dy_NO[rows], None if dx_NI is None else dx_NI[rows])
        return dx_NI, dy_NO, None, None
