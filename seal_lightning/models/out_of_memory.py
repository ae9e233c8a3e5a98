"""Detection of failed allocations, and a retry in smaller batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

_logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an allocation failed: on an accelerator an exception type, on a CPU a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def retry_in_halves(items: Sequence[ItemT], work: Callable[[Sequence[ItemT]], list[ResultT]]) -> list[ResultT]:
    """Return ``work(items)``; when memory runs out, of each half instead. Raises when a single item does not fit."""
    try:
        return work(items)
    except RuntimeError as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    _logger.warning("out of memory: retrying with batches of %d", -(-len(items) // 2))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    return retry_in_halves(items[:middle], work) + retry_in_halves(items[middle:], work)
