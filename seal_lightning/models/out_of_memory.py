"""Running out of memory: how it is known, and how work is done in smaller pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

_logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed: on an accelerator a type of its own, on a CPU a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def retry_in_halves(items: Sequence[ItemT], work: Callable[[Sequence[ItemT]], list[ResultT]]) -> list[ResultT]:
    """``work`` on all items at once; where memory runs out, on each half. One item that does not fit raises."""
    try:
        return work(items)
    except RuntimeError as error:
        if len(items) == 1 or not is_out_of_memory(error):
            raise
    _logger.warning("out of memory: going on with batches of %d", -(-len(items) // 2))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    return retry_in_halves(items[:middle], work) + retry_in_halves(items[middle:], work)
