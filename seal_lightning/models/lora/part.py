"""One adapter's rows at one linear layer.

Shapes: N rows or packed tokens, I inputs and O outputs of the layer, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
