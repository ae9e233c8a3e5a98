"""Keys and values with room to grow.

transformers' dynamic cache joins old and new states at every token, which copies all of them. Here a layer writes into
room it took in advance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [batch, heads, tokens, head size], views of tensors with room for more tokens."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._key_room: Tensor | None = None
        self._value_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._key_room, self.keys = self._appended(self._key_room, self.keys, key_states)
        self._value_room, self.values = self._appended(self._value_room, self.values, value_states)
        return self.keys, self.values

    def _appended(self, room: Tensor | None, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        before = old.shape[-2] if old.numel() else 0
        after = before + new.shape[-2]
        if room is None or room.shape[-2] < after:
            room = new.new_empty(*new.shape[:2], after + max(64, after // 2), new.shape[3])
            if before:
                room[:, :, :before] = old
        room[:, :, before:after] = new
        return room, room[:, :, :after]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep (or repeat) rows of the batch: they become tensors of their own, and the room is given up."""
        super().batch_select_indices(indices)
        self._key_room = self._value_room = None


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model; its full-attention layers grow by half at a time."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keep_rows(cache: DynamicCache, rows: list[int], device: torch.device) -> None:
    """Keep (or repeat) rows of the batch, in this order."""
    cache.batch_select_indices(torch.tensor(rows, device=device))


def grows_freely(cache: DynamicCache) -> bool:
    """Whether every layer keeps all tokens, and none a window of the last ones only."""
    return all(type(layer) is RoomyLayer for layer in cache.layers)
