"""The updates that adapters add to their rows at one linear layer: one by one, or all of them in grouped products.

One product per adapter keeps a CPU busy but not a GPU: 32 adapters of 56 layers would be thousands of small kernels a pass.
``torch.nn.functional.grouped_mm`` takes them all at once, in bfloat16. Weights are stored in float32 and computed with in
bfloat16, as autocast does. Ranks are padded with zeros, which stay zero because their gradients are zero.

Shapes: M groups of rows, N rows or packed tokens, I inputs and O outputs of the layer, R rank (in groups: the largest, padded
to a multiple of 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Grouped products want rows of a multiple of 16 bytes, which are 8 elements of bfloat16.
_ALIGNED = 8


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Dropout of one adapter's input; each run of ``sizes`` rows draws from its own generator."""

    rate: float
    sizes: tuple[int, ...]
    generators: tuple[torch.Generator, ...]

    def mask(self, x_NI: Tensor) -> Tensor:
        """Draw the mask [N, I] of the inputs that are kept, scaled so that the mean stays."""
        drawn = [
            torch.rand(size, x_NI.shape[1], generator=generator, device=generator.device)
            for size, generator in zip(self.sizes, self.generators, strict=True)
        ]
        return (torch.cat(drawn) >= self.rate).to(x_NI.dtype) / (1 - self.rate)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowUpdate:
    """The update that an adapter adds to rows ``start`` to ``stop``: y += scaling · B A x."""

    start: int
    stop: int
    a: Tensor  # [R, I]
    b: Tensor  # [O, R]
    scaling: float
    gradients: tuple[Tensor, Tensor] | None
    """Buffers to which the gradients of A and B are added; None where nothing is trained."""
    dropout: Dropout | None

    def rows(self, num_positions: int) -> slice:
        """Return the positions of these rows, when each row has ``num_positions`` of them."""
        return slice(self.start * num_positions, self.stop * num_positions)

    def add_to(self, x_NI: Tensor, output_NO: Tensor) -> tuple[Tensor, Tensor | None]:
        """Update the rows' output in place; return A x [N, R] and, with dropout, the mask [N, I]."""
        x_NI = x_NI.to(self.a.dtype)
        mask_NI = self.dropout.mask(x_NI) if self.dropout is not None else None
        if mask_NI is not None:
            x_NI = x_NI * mask_NI
        low_NR = x_NI @ self.a.T
        if output_NO.dtype == low_NR.dtype:
            output_NO.addmm_(low_NR, self.b.T, alpha=self.scaling)
        else:
            output_NO.copy_(torch.addmm(output_NO.to(low_NR.dtype), low_NR, self.b.T, alpha=self.scaling))
        return low_NR, mask_NI

    def add_gradients(
        self, x_NI: Tensor, low_NR: Tensor, mask_NI: Tensor | None, dy_NO: Tensor, dx_NI: Tensor | None
    ) -> None:
        """Add dA and dB to the buffers, and write the gradient of the rows' input into ``dx_NI``."""
        dy_NO, x_NI = dy_NO.to(self.b.dtype), x_NI.to(self.a.dtype)
        dlow_NR = (dy_NO @ self.b).mul_(self.scaling)
        if self.gradients is not None:
            da_RI, db_OR = self.gradients
            da_RI.addmm_(dlow_NR.T, x_NI if mask_NI is None else x_NI * mask_NI)
            db_OR.addmm_(dy_NO.T, low_NR, alpha=self.scaling)
        if dx_NI is not None:
            back_NI = dlow_NR @ self.a
            dx_NI.copy_(back_NI if mask_NI is None else back_NI * mask_NI)


def can_be_grouped(x: Tensor, output: Tensor, updates: Sequence[RowUpdate]) -> bool:
    """Return whether the device's grouped product supports this layer: bfloat16 on CUDA, aligned sizes, no dropout."""
    return x.device.type == "cuda" and fits_grouping(x, output, updates)


def fits_grouping(x: Tensor, output: Tensor, updates: Sequence[RowUpdate]) -> bool:
    """Return the same for any device."""
    aligned = x.shape[-1] % _ALIGNED == 0 and output.shape[-1] % _ALIGNED == 0
    return x.dtype is torch.bfloat16 and aligned and all(update.dropout is None for update in updates)


class Groups:
    """The stacked weights of a layer's updates; rows without an update form groups of zeros."""

    def __init__(self, updates: Sequence[RowUpdate], num_rows: int, dtype: torch.dtype) -> None:
        self.updates = updates
        rank = max(update.a.shape[0] for update in updates)
        rank += -rank % _ALIGNED
        self.stops: list[int] = []
        self.indices: list[int] = []
        """Of the updates, among the groups."""
        for update in updates:
            if update.start > (self.stops[-1] if self.stops else 0):
                self.stops.append(update.start)
            self.indices.append(len(self.stops))
            self.stops.append(update.stop)
        if self.stops[-1] < num_rows:
            self.stops.append(num_rows)
        self._offsets: dict[int, Tensor] = {}
        a_RI, b_OR = updates[0].a, updates[0].b
        self.a_MRI = torch.zeros(len(self.stops), rank, a_RI.shape[1], dtype=dtype, device=a_RI.device)
        self.b_MOR = torch.zeros(len(self.stops), b_OR.shape[0], rank, dtype=dtype, device=a_RI.device)
        for i, update in zip(self.indices, updates, strict=True):
            self.a_MRI[i, : update.a.shape[0]] = update.a
            self.b_MOR[i, :, : update.b.shape[1]] = update.b * update.scaling

    def offsets(self, num_positions: int) -> Tensor:
        """Return the ends [M] of each group's rows, when each row has ``num_positions`` positions."""
        if num_positions not in self._offsets:
            stops = [stop * num_positions for stop in self.stops]
            self._offsets[num_positions] = torch.tensor(stops, dtype=torch.int32, device=self.a_MRI.device)
        return self._offsets[num_positions]

    def add_gradients(self, da_MRI: Tensor, db_MOR: Tensor) -> None:
        """Add the gradients to the updates' buffers; ``db_MOR`` is of the scaled B."""
        buffers: list[Tensor] = []
        gradients: list[Tensor] = []
        for i, update in zip(self.indices, self.updates, strict=True):
            if update.gradients is not None:
                rank = update.a.shape[0]
                buffers += update.gradients
                gradients += [da_MRI[i, :rank].float(), db_MOR[i, :, :rank].float() * update.scaling]
        torch._foreach_add_(buffers, gradients)


def grouped_update(x_NI: Tensor, output_NO: Tensor, groups: Groups, num_positions: int) -> tuple[Tensor, Tensor]:
    """Return the base layer's output plus each group's update [N, O], and A x [N, R]."""
    offsets = groups.offsets(num_positions)
    low_NR = F.grouped_mm(x_NI, groups.a_MRI.transpose(1, 2), offs=offsets)
    return output_NO + F.grouped_mm(low_NR, groups.b_MOR.transpose(1, 2), offs=offsets), low_NR


class GroupedUpdate(torch.autograd.Function):
    """:func:`grouped_update` of packed tokens; its backward pass adds the gradients of A and B to the updates' buffers."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, output_NO: Tensor, anchor: Tensor, groups: Groups) -> Tensor:
        """Return the updated output [N, O]."""
        updated_NO, low_NR = grouped_update(x_NI, output_NO, groups, num_positions=1)
        ctx.save_for_backward(x_NI, low_NR, groups.offsets(1))
        ctx.groups = groups
        return updated_NO

    @staticmethod
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        """Do as :meth:`RowUpdate.add_gradients` for all groups, in four grouped products."""
        x_NI, low_NR, offsets = ctx.saved_tensors
        groups: Groups = ctx.groups
        dy_NO = dy_NO.contiguous()
        dlow_NR = F.grouped_mm(dy_NO, groups.b_MOR, offs=offsets)
        groups.add_gradients(
            F.grouped_mm(dlow_NR.t(), x_NI, offs=offsets), F.grouped_mm(dy_NO.t(), low_NR, offs=offsets)
        )
        dx_NI = F.grouped_mm(dlow_NR, groups.a_MRI, offs=offsets) if ctx.needs_input_grad[0] else None
        return dx_NI, dy_NO, None, None
