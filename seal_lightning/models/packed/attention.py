"""Causal attention within each sequence of a packed row, registered in transformers' attention interface.

A mask over the whole row would cost T² and let a NaN of one sequence reach the others (0 · NaN is NaN). Here sequences of
similar length are gathered into small right-padded batches: causal attention never reads the pads behind it.

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
"""The attention's name in transformers."""

MAX_PADDING = 1.34
"""Maximal ratio of the longest to the shortest sequence of a batch."""


@dataclass(frozen=True)
class _Layout:
    """The gathering of a row's tokens into batches, and the index of each token's output in them."""

    batches: list[Tensor]  # of each batch, token indices [N, L]; a pad repeats its sequence's last token
    output_index: Tensor  # [T], into the batches' outputs, flattened and concatenated


_layout: ContextVar[_Layout] = ContextVar("packed_layout")


@contextmanager
def packed_attention(model: PreTrainedModel, lengths: Sequence[int], device: torch.device) -> Iterator[None]:
    """Let the model attend within sequences of these lengths, packed in one row, inside this block."""
    with _use_layout(model, _layout_of(lengths, device)):
        yield


def packed_again(model: PreTrainedModel) -> Callable[[], AbstractContextManager[None]]:
    """Return a factory of blocks like the current one, for later and for other threads."""
    layout = _layout.get()
    return lambda: _use_layout(model, layout)


@contextmanager
def _use_layout(model: PreTrainedModel, layout: _Layout) -> Iterator[None]:
    configured = model.config._attn_implementation
    token = _layout.set(layout)
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = configured
        _layout.reset(token)


def _layout_of(lengths: Sequence[int], device: torch.device) -> _Layout:
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[i] * MAX_PADDING < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(i)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    output_index = torch.empty(sum(lengths), dtype=torch.long)
    batches, offset = [], 0
    for group in groups:
        length_N = torch.tensor([lengths[i] for i in group])
        column_L = torch.arange(int(length_N.max()))
        index_NL = starts[group][:, None] + torch.minimum(column_L[None, :], length_N[:, None] - 1)
        real_NL = column_L[None, :] < length_N[:, None]
        output_index[index_NL[real_NL]] = offset + real_NL.flatten().nonzero().squeeze(1)
        offset += index_NL.numel()
        batches.append(index_NL.to(device))
    return _Layout(batches, output_index.to(device))


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
    """Return [1, T, H, D] from query [1, H, T, D], and key and value [1, G, T, D]."""
    for name in ("s_aux", "position_bias"):
        if extras.get(name) is not None:
            raise ModelError(
                f"{type(module).__name__} attends with {name}, which packed rows do not support; use a model without it"
            )
    layout = _layout.get()
    longest = max(index_NL.shape[1] for index_NL in layout.batches)
    if attention_mask is not None and sliding_window is None and longest > int(attention_mask):
        raise ModelError(
            f"{type(module).__name__} limits attention to {int(attention_mask)} tokens by its mask, which packed rows do not "
            f"have; a sequence here has {longest} tokens. Shorten the sequences, or use another model"
        )
    outputs = []
    for index_NL in layout.batches:
        q, k, v = (_gather(states, index_NL) for states in (query, key, value))
        outputs.append(_causal(q, k, v, scaling, sliding_window, softcap).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.output_index)[None], None


def _gather(states: Tensor, index_NL: Tensor) -> Tensor:
    """Return [N, H, L, D] from [1, H, T, D]."""
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
    """Compute attention with scores squashed into ±softcap (Gemma 2), for which torch has no fused kernel."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = torch.matmul(q, k.transpose(2, 3)) * (scaling if scaling is not None else q.shape[3] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    seen = band if band is not None else torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
    wide = torch.promote_types(scores.dtype, torch.float32)
    probs = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1, dtype=wide).to(q.dtype)
    return torch.matmul(probs, v)


def _window(*args: Any, local_size: int | None = None, **kwargs: Any) -> Tensor | None:
    """Return, instead of a mask, the size [1, 1, 1, 1] of its window or chunk, if any."""
    return None if local_size is None else torch.full((1, 1, 1, 1), local_size)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _window)
