"""One adapter's rows at one linear layer.

Shapes: N rows or packed tokens, I inputs and O outputs of the layer, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Dropout of one adapter's input: the next ``size`` rows draw from a generator of their own."""

    rate: float
    sizes: tuple[int, ...]
    generators: tuple[torch.Generator, ...]

    def kept(self, x_NI: Tensor) -> Tensor:
        """Which inputs are kept, [N, I], scaled so that the mean stays."""
        drawn = [
            torch.rand(size, x_NI.shape[1], generator=generator, device=generator.device)
            for size, generator in zip(self.sizes, self.generators, strict=True)
        ]
        return (torch.cat(drawn) >= self.rate).to(x_NI.dtype) / (1 - self.rate)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What an adapter does to rows ``start`` to ``stop``: y += scaling · B A x."""

    start: int
    stop: int
    a: Tensor
    """[R, I]"""
    b: Tensor
    """[O, R]"""
    scaling: float
    gradients: tuple[Tensor, Tensor] | None
    """Buffers that the gradients of A and B are added to; None where nothing is trained."""
    dropout: Dropout | None

    def rows(self, each: int) -> slice:
        """The positions of the part's rows, when a row has ``each`` of them."""
        return slice(self.start * each, self.stop * each)

    def add_update(self, x_NI: Tensor, output_NO: Tensor) -> tuple[Tensor, Tensor | None]:
        """Update the rows' output in place; returns A x and, with dropout, which inputs were kept."""
        x_NI = x_NI.to(self.a.dtype)
        kept_NI = self.dropout.kept(x_NI) if self.dropout is not None else None
        if kept_NI is not None:
            x_NI = x_NI * kept_NI
        low_NR = x_NI @ self.a.T
        if output_NO.dtype == low_NR.dtype:
            output_NO.addmm_(low_NR, self.b.T, alpha=self.scaling)
        else:
            output_NO.copy_(torch.addmm(output_NO.to(low_NR.dtype), low_NR, self.b.T, alpha=self.scaling))
        return low_NR, kept_NI

    def add_gradients(
        self, x_NI: Tensor, low_NR: Tensor, kept_NI: Tensor | None, dy_NO: Tensor, dx_NI: Tensor | None
    ) -> None:
        """Add dA and dB to the buffers, and write the gradient of the rows' input into ``dx_NI``."""
        dy_NO, x_NI = dy_NO.to(self.b.dtype), x_NI.to(self.a.dtype)
        dlow_NR = (dy_NO @ self.b).mul_(self.scaling)
        if self.gradients is not None:
            da_RI, db_OR = self.gradients
            da_RI.addmm_(dlow_NR.T, x_NI if kept_NI is None else x_NI * kept_NI)
            db_OR.addmm_(dy_NO.T, low_NR, alpha=self.scaling)
        if dx_NI is not None:
            back_NI = dlow_NR @ self.a
            dx_NI.copy_(back_NI if kept_NI is None else back_NI * kept_NI)
