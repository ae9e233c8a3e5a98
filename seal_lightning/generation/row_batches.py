"""Rows of a batch: sorted by adapter, padded on the left, with a cache of keys and values that grows without copying.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from seal_lightning.models.lora import AdapterRows, LoraAdapter

ItemT = TypeVar("ItemT")


def sort_by_adapter(items: Sequence[ItemT], adapter_of: Callable[[ItemT], LoraAdapter | None]) -> list[ItemT]:
    """Return the items with the same adapter side by side, adapters in the order of their first item."""
    first = {id(adapter_of(item)): i for i, item in reversed(list(enumerate(items)))}
    return sorted(items, key=lambda item: first[id(adapter_of(item))])


def merge_rows(rows: Sequence[AdapterRows]) -> list[AdapterRows]:
    """Return the rows with neighbours of the same adapter merged."""
    merged: list[AdapterRows] = []
    for row in rows:
        if merged and merged[-1].adapter is row.adapter:
            merged[-1] = replace(row, size=merged[-1].size + row.size)
        else:
            merged.append(row)
    return merged


def one_row_each(adapters: Sequence[LoraAdapter | None]) -> list[AdapterRows]:
    """Return the rows of a batch in which each of these adapters has one."""
    return merge_rows([AdapterRows(size=1, adapter=adapter) for adapter in adapters])


def left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, num_shared: int = 0
) -> tuple[Tensor, Tensor]:
    """Return token ids [B, T] and attention mask [B, T] of rows that all end in the last column.

    The first ``num_shared`` tokens, which all rows have in common, are in the first columns, before the pads.
    """
    width = max(map(len, rows))
    pads = [width - len(row) for row in rows]
    ids = [[*row[:num_shared], *[pad_id] * n, *row[num_shared:]] for n, row in zip(pads, rows, strict=True)]
    mask = [[1] * num_shared + [0] * n + [1] * (width - n - num_shared) for n in pads]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, not counting each row's last token."""
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def positions(mask_BT: Tensor) -> Tensor:
    """Return [B, T] each token's index among its row's real tokens; a pad has that of the real token before it, or 0."""
    return (mask_BT.cumsum(dim=1) - 1).clamp(min=0)


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [batch, heads, tokens, head size], as views of tensors with room for more tokens.

    transformers' own layer concatenates old and new states at every token, which copies all of them.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._key_buffer, self.keys = self._append(self._key_buffer, self.keys, key_states)
        self._value_buffer, self.values = self._append(self._value_buffer, self.values, value_states)
        return self.keys, self.values

    def _append(self, buffer: Tensor | None, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        before = old.shape[-2] if old.numel() else 0
        after = before + new.shape[-2]
        if buffer is None or buffer.shape[-2] < after:
            buffer = new.new_empty(*new.shape[:2], after + max(64, after // 2), new.shape[3])
            if before:
                buffer[:, :, :before] = old
        buffer[:, :, before:after] = new
        return buffer, buffer[:, :, :after]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep (or repeat) rows of the batch: they are copied, and the buffers are dropped."""
        super().batch_select_indices(indices)
        self._key_buffer = self._value_buffer = None


def preallocated_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty cache for a model whose full-attention layers grow by half at a time."""
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keep_rows(cache: DynamicCache, rows: list[int], device: torch.device) -> None:
    """Keep (or repeat) rows of the batch, in this order."""
    cache.batch_select_indices(torch.tensor(rows, device=device))


def keeps_all_tokens(cache: DynamicCache) -> bool:
    """Return whether every layer keeps all tokens, and none only a sliding window of the last ones."""
    return all(type(layer) is PreallocatedLayer for layer in cache.layers)
