"""Rows side by side in a batch: in the order of their adapters, and padded on the left.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from seal_lightning.models.lora import LoraAdapter, Share

ItemT = TypeVar("ItemT")


def by_adapter(items: list[ItemT], adapter_of: Callable[[ItemT], LoraAdapter | None]) -> list[ItemT]:
    """Items with the same adapter side by side, adapters in the order of their first item."""
    first = {id(adapter_of(item)): place for place, item in reversed(list(enumerate(items)))}
    return sorted(items, key=lambda item: first[id(adapter_of(item))])


def joined(shares: Sequence[Share]) -> list[Share]:
    """Neighbouring shares of one adapter as one."""
    together: list[Share] = []
    for share in shares:
        if together and together[-1].adapter is share.adapter:
            together[-1] = replace(share, size=together[-1].size + share.size)
        else:
            together.append(share)
    return together


def one_row_each(adapters: Sequence[LoraAdapter | None]) -> list[Share]:
    """The shares of a batch whose rows have these adapters."""
    return joined([Share(size=1, adapter=adapter) for adapter in adapters])


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, num_shared: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and attention mask [B, T] of rows that all end in the last column.

    The first ``num_shared`` tokens, which all rows have in common, stand in the first columns, before the pads.
    """
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    ids = [[*row[:num_shared], *[pad_id] * n, *row[num_shared:]] for n, row in zip(pads, rows, strict=True)]
    mask = [[1] * num_shared + [0] * n + [1] * (width - n - num_shared) for n in pads]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def common_start(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with alike; each row's last token is not counted."""
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def positions(mask_BT: Tensor) -> Tensor:
    """[B, T] each token's place among its row's real ones; a pad has that of the real token before it, or 0."""
    return (mask_BT.cumsum(dim=1) - 1).clamp(min=0)
