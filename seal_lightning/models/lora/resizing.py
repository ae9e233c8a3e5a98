"""LoRA updates made smaller: scaled, or cut to fewer singular directions.

Shapes: I inputs and O outputs of a linear layer, R rank, K the rank kept.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from seal_lightning.models.lora.adapter import LoraAdapter


@torch.no_grad()
def scaled_adapter(adapter: LoraAdapter, factor: float) -> LoraAdapter:
    """The adapter whose update is ``factor`` times as large."""
    return replace(adapter, weights={name: (a, b * factor) for name, (a, b) in adapter.weights.items()})


@torch.no_grad()
def truncated_adapter(adapter: LoraAdapter, rank: int) -> LoraAdapter:
    """The adapter of ``rank`` ≥ 1 whose update of each layer is nearest (Eckart and Young); itself, where it has no more.

    The singular parts of B A come from two thin QR decompositions and an R × R one, so the [O, I] update is never made.
    """
    if rank >= adapter.spec.rank:
        return adapter
    weights = {name: _truncated(a, b * adapter.scaling, rank) for name, (a, b) in adapter.weights.items()}
    spec = replace(adapter.spec, rank=rank, alpha=float(rank), use_rslora=False)
    return LoraAdapter(spec=spec, weights=weights)


def _truncated(a_RI: Tensor, b_OR: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [K, I] and B [O, K]; where a layer is smaller than K, with zeros, so that all layers have one rank."""
    in_basis, in_core = torch.linalg.qr(a_RI.T)
    out_basis, out_core = torch.linalg.qr(b_OR)
    left, strength, right = torch.linalg.svd(out_core @ in_core.T, full_matrices=False)
    kept = min(rank, len(strength))
    a_KI, b_OK = a_RI.new_zeros(rank, a_RI.shape[1]), b_OR.new_zeros(b_OR.shape[0], rank)
    a_KI[:kept] = right[:kept] @ in_basis.T
    b_OK[:, :kept] = out_basis @ (left[:, :kept] * strength[:kept])
    return a_KI, b_OK
