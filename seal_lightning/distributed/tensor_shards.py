"""Access to weights that may be spread over ranks: this rank's rows, and the whole tensor.

A sharded weight (FSDP2's ``DTensor``) is cut by rows into as many pieces as its group has ranks, the last ones smaller.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def here(weight: Tensor) -> Tensor:
    """Return the rows of a weight that this process holds, to be read or written in place; all of a plain tensor."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def rows_here(whole: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a whole tensor that correspond to :func:`here` of a weight."""
    if not isinstance(weight, DTensor):
        return whole
    start = first_row(weight)
    return whole[start : start + here(weight).shape[0]]


def first_row(weight: Tensor) -> int:
    """Return the index in the whole weight of the first row of :func:`here`."""
    if not isinstance(weight, DTensor):
        return 0
    mesh = weight.device_mesh
    each = -(-weight.shape[0] // mesh.size(mesh.ndim - 1))
    return min(weight.shape[0], each * mesh.get_local_rank(mesh.ndim - 1))


def whole(weight: Tensor) -> Tensor:
    """Return the whole weight, without gradient. A collective of the weight's ranks where it is sharded."""
    weight = weight.detach()
    if not isinstance(weight, DTensor):
        return weight
    if weight.device.type != weight.device_mesh.device_type:  # offloaded: it is gathered on the devices
        weight = like(weight.to_local().to(weight.device_mesh.device_type), weight)
    return weight.full_tensor()


def like(rows: Tensor, weight: DTensor) -> DTensor:
    """Return the sharded tensor of which each rank holds the given rows, with a weight's layout."""
    return DTensor.from_local(
        rows,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
