"""Weights that may be spread over ranks: which part of a whole tensor is here, and how a whole one is had again.

A sharded weight (FSDP2's ``DTensor``) is cut by rows into as many pieces as its group has ranks, the last ones smaller.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def here(weight: Tensor) -> Tensor:
    """The rows of a weight that this process holds, to be read or written in place; of a plain tensor all."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def rows_here(whole: Tensor, weight: Tensor) -> Tensor:
    """Of a whole tensor the rows that belong to :func:`here` of a weight."""
    if not isinstance(weight, DTensor):
        return whole
    start = first_row(weight)
    return whole[start : start + here(weight).shape[0]]


def first_row(weight: Tensor) -> int:
    """Where the rows of :func:`here` begin in the whole weight."""
    if not isinstance(weight, DTensor):
        return 0
    mesh = weight.device_mesh
    each = -(-weight.shape[0] // mesh.size(mesh.ndim - 1))
    return min(weight.shape[0], each * mesh.get_local_rank(mesh.ndim - 1))


def whole(weight: Tensor) -> Tensor:
    """The whole weight, without gradient. A collective of the weight's ranks where it is sharded."""
    weight = weight.detach()
    if not isinstance(weight, DTensor):
        return weight
    if weight.device.type != weight.device_mesh.device_type:  # offloaded: the ranks' devices gather
        weight = like(weight.to_local().to(weight.device_mesh.device_type), weight)
    return weight.full_tensor()


def like(rows: Tensor, weight: DTensor) -> DTensor:
    """The tensor of which each rank holds such rows as it does of a sharded weight."""
    return DTensor.from_local(
        rows,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
