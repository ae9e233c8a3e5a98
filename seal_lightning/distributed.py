"""What ranks say to each other outside gradients: whole Python objects, gathered once at a phase's end."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather_objects(local: list[T]) -> list[T]:
    """The lists of all ranks, joined in rank order, on every rank. A collective: every rank must call it."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return list(local)
    lists: list[list[T] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, local)
    return [item for items in lists for item in items or []]
