"""Causal attention, sequence by sequence, inside a packed row; plugged into transformers' attention interface.

A mask over the whole row would cost T² and let a NaN of one sequence reach the others (0 · NaN is NaN). Here sequences of
like length are gathered into small right-padded batches: what is causal never looks at the pads behind it.

Shapes: H query heads, G key heads, T packed tokens, D head dimension, N sequences of a batch, L their longest length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from seal_lightning.core.errors import ModelError

NAME = "seal_lightning_packed"
"""Under which the attention is known to transformers."""

MAX_PADDING = 1.34
"""Sequences share a batch while the longest is at most so many times as long as the shortest."""


@dataclass(frozen=True)
class _Layout:
    """How a row's tokens are gathered into batches, and where each token's output is found again."""

    batches: list[Tensor]
    """Of each batch, token indices [N, L]; a pad repeats its sequence's last token."""
    place: Tensor
    """[T] index of each token in the batches' outputs, flattened and joined."""


_layout: ContextVar[_Layout] = ContextVar("packed_layout")


@contextmanager
def packed_attention(model: PreTrainedModel, lengths: Sequence[int], device: torch.device) -> Iterator[None]:
    """Inside this block the model attends within sequences of these lengths, packed in one row."""
    with _attending_by(model, _laid_out(lengths, device)):
        yield


def packed_again(model: PreTrainedModel) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks like the one this is called in, for later and for other threads."""
    layout = _layout.get()
    return lambda: _attending_by(model, layout)


@contextmanager
def _attending_by(model: PreTrainedModel, layout: _Layout) -> Iterator[None]:
    configured = model.config._attn_implementation
    token = _layout.set(layout)
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = configured
        _layout.reset(token)


def _laid_out(lengths: Sequence[int], device: torch.device) -> _Layout:
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[i] * MAX_PADDING < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    place = torch.empty(sum(lengths), dtype=torch.long)
    batches, offset = [], 0
    for group in groups:
        length_N = torch.tensor([lengths[i] for i in group])
        column_L = torch.arange(int(length_N.max()))
        index_NL = starts[group][:, None] + torch.minimum(column_L[None, :], length_N[:, None] - 1)
        real_NL = column_L[None, :] < length_N[:, None]
        place[index_NL[real_NL]] = offset + real_NL.flatten().nonzero().squeeze(1)
        offset += index_NL.numel()
        batches.append(index_NL.to(device))
    return _Layout(batches, place.to(device))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Query [1, H, T, D], key and value [1, G, T, D] in, [1, T, H, D] out."""
    for name in ("s_aux", "position_bias"):
        if extras.get(name) is not None:
            raise ModelError(
                f"{type(module).__name__} attends with {name}, which packed rows do not support; use a model without it"
            )
    layout = _layout.get()
    longest = max(index_NL.shape[1] for index_NL in layout.batches)
    if attention_mask is not None and sliding_window is None and longest > int(attention_mask):
        raise ModelError(
            f"{type(module).__name__} attends within {int(attention_mask)} tokens by its mask alone, which packed rows do "
            f"not have; a sequence here has {longest} tokens. Cut the sequences, or use a model without it"
        )
    outputs = []
    for index_NL in layout.batches:
        q, k, v = (_gather(states, index_NL) for states in (query, key, value))
        outputs.append(_causal(q, k, v, scaling, sliding_window, softcap).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.place)[None], None


def _gather(states: Tensor, index_NL: Tensor) -> Tensor:
    """[1, H, T, D] to [N, H, L, D]."""
    picked = states[0].transpose(0, 1).index_select(0, index_NL.flatten())
    return picked.view(*index_NL.shape, *picked.shape[1:]).transpose(1, 2)


def _causal(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, sliding_window: int | None, softcap: float | None
) -> Tensor:
    length = q.shape[2]
    band: Tensor | None = None
    if sliding_window is not None and length > sliding_window:
        position = torch.arange(length, device=q.device)
        distance = position[:, None] - position[None, :]
        band = (distance >= 0) & (distance < sliding_window)
    if softcap is not None:
        return _softcapped(q, k, v, scaling, softcap, band)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=grouped
    )


def _softcapped(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, softcap: float, band: Tensor | None) -> Tensor:
    """Attention whose scores are squashed into ±softcap (Gemma 2), which no fused kernel of torch offers."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = torch.matmul(q, k.transpose(2, 3)) * (scaling if scaling is not None else q.shape[3] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    seen = band if band is not None else torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    wide = torch.promote_types(scores.dtype, torch.float32)
    probs = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1, dtype=wide).to(q.dtype)
    return torch.matmul(probs, v)


def _window(*args: Any, local_size: int | None = None, **kwargs: Any) -> Tensor | None:
    """Instead of a mask, the size [1, 1, 1, 1] of the window or chunk it would have shown, if any."""
    return None if local_size is None else torch.full((1, 1, 1, 1), local_size)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _window)
