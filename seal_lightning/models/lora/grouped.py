"""Many adapters' updates of one linear layer in two grouped matrix products, for accelerators.

One product an adapter keeps a CPU busy but not a GPU: 32 adapters of 56 layers would be thousands of small kernels a pass.
``torch.nn.functional.grouped_mm`` takes them all at once, in bfloat16. Weights are kept in float32 and computed with in
bfloat16, as autocast does; ranks are padded with zeros, which stay zero: their gradients are.

Shapes: M groups of rows, N rows, I inputs and O outputs of the layer, R the largest rank, padded to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seal_lightning.models.lora.part import Part

_ALIGNED = 8
"""bfloat16 elements of 16 bytes, of which grouped products want all rows to be multiples."""


def can_be_grouped(x: Tensor, output: Tensor, parts: Sequence[Part]) -> bool:
    """Whether the device's grouped product takes this layer: bfloat16 on CUDA, aligned sizes, no dropout."""
    return x.device.type == "cuda" and fits_grouping(x, output, parts)


def fits_grouping(x: Tensor, output: Tensor, parts: Sequence[Part]) -> bool:
    """The same but for the device."""
    aligned = x.shape[-1] % _ALIGNED == 0 and output.shape[-1] % _ALIGNED == 0
    return x.dtype is torch.bfloat16 and aligned and all(part.dropout is None for part in parts)


class Groups:
    """The stacked weights of a layer's parts; rows that no part covers form groups of zeros."""

    def __init__(self, parts: Sequence[Part], num_rows: int, dtype: torch.dtype) -> None:
        self.parts = parts
        rank = max(part.a.shape[0] for part in parts)
        rank += -rank % _ALIGNED
        first = parts[0]
        self.stops: list[int] = []
        self.places: list[int] = []
        for part in parts:
            if part.start > (self.stops[-1] if self.stops else 0):
                self.stops.append(part.start)
            self.places.append(len(self.stops))
            self.stops.append(part.stop)
        if self.stops[-1] < num_rows:
            self.stops.append(num_rows)
        self._offsets: dict[int, Tensor] = {}
        device = first.a.device
        self.a_MRI = torch.zeros(len(self.stops), rank, first.a.shape[1], dtype=dtype, device=device)
        self.b_MOR = torch.zeros(len(self.stops), first.b.shape[0], rank, dtype=dtype, device=device)
        for place, part in zip(self.places, parts, strict=True):
            self.a_MRI[place, : part.a.shape[0]] = part.a
            self.b_MOR[place, :, : part.b.shape[1]] = part.b * part.scaling

    def offsets(self, each: int) -> Tensor:
        """Where each group's rows end, [M], when a routed row has ``each`` positions."""
        if each not in self._offsets:
            stops = [stop * each for stop in self.stops]
            self._offsets[each] = torch.tensor(stops, dtype=torch.int32, device=self.a_MRI.device)
        return self._offsets[each]

    def add_gradients(self, da_MRI: Tensor, db_MOR: Tensor) -> None:
        """Hand each part its own; ``db_MOR`` is of the scaled B."""
        into: list[Tensor] = []
        gradients: list[Tensor] = []
        for place, part in zip(self.places, self.parts, strict=True):
            if part.gradients is not None:
                rank = part.a.shape[0]
                into += part.gradients
                gradients += [da_MRI[place, :rank].float(), db_MOR[place, :, :rank].float() * part.scaling]
        torch._foreach_add_(into, gradients)


def grouped_update(x_NI: Tensor, output_NO: Tensor, groups: Groups, each: int) -> tuple[Tensor, Tensor]:
    """The base layer's output plus each group's update, and A x [N, R]."""
    offsets = groups.offsets(each)
    low_NR = F.grouped_mm(x_NI, groups.a_MRI.transpose(1, 2), offs=offsets)
    return output_NO + F.grouped_mm(low_NR, groups.b_MOR.transpose(1, 2), offs=offsets), low_NR


class GroupedUpdate(torch.autograd.Function):
    """:func:`grouped_update`, whose backward pass adds the gradients of A and B to the parts' buffers."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, output_NO: Tensor, anchor: Tensor, groups: Groups) -> Tensor:
        """For packed tokens: every row is a position."""
        updated_NO, low_NR = grouped_update(x_NI, output_NO, groups, each=1)
        ctx.save_for_backward(x_NI, low_NR, groups.offsets(1))
        ctx.groups = groups
        return updated_NO

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor | None, ...]:
        """As :class:`seal_lightning.models.lora.applying._RoutedUpdate`, in four grouped products."""
        x_NI, low_NR, offsets = ctx.saved_tensors
        groups: Groups = ctx.groups
        gradient_NO = gradient_NO.contiguous()
        dlow_NR = F.grouped_mm(gradient_NO, groups.b_MOR, offs=offsets)
        groups.add_gradients(
            F.grouped_mm(dlow_NR.t(), x_NI, offs=offsets), F.grouped_mm(gradient_NO.t(), low_NR, offs=offsets)
        )
        dx_NI = F.grouped_mm(dlow_NR, groups.a_MRI, offs=offsets) if ctx.needs_input_grad[0] else None
        return dx_NI, gradient_NO, None, None
