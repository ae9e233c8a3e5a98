"""Sequences of tokens to packed rows.

Shapes: T packed tokens, S targets of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenizedSequence:
    """Token ids and, for each, whether the loss counts it as a target (never the first: nothing predicts it)."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    truncated: bool = False
    anchored: bool = False
    """Whether at its targets the model is held to its own unadapted distribution, instead of trained on them."""

    @property
    def num_targets(self) -> int:
        """How many tokens the loss counts."""
        return sum(self.trained)


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Sequences joined to one row. A forward pass over it equals one pass a sequence."""

    token_ids: Tensor
    """[1, T]"""
    position_ids: Tensor
    """[1, T]; starts again at 0 with each sequence."""
    lengths: tuple[int, ...]
    """Tokens of each sequence, in the row's order; they sum to T."""
    num_targets: tuple[int, ...]
    """Targets of each sequence, in the row's order; they sum to S."""
    predict_at: Tensor
    """[S] positions whose next token is a target."""
    targets: Tensor
    """[S] token ids."""


def pack(sequences: Sequence[TokenizedSequence], device: torch.device) -> PackedRow:
    """Join sequences to one row."""
    ids = torch.tensor([i for s in sequences for i in s.token_ids])
    trained = torch.tensor([t for s in sequences for t in s.trained])
    position = torch.cat([torch.arange(len(s.token_ids)) for s in sequences])
    target_at = trained.nonzero().squeeze(1)
    return PackedRow(
        token_ids=ids[None].to(device),
        position_ids=position[None].to(device),
        lengths=tuple(len(s.token_ids) for s in sequences),
        num_targets=tuple(s.num_targets for s in sequences),
        predict_at=(target_at - 1).to(device),
        targets=ids[target_at].to(device),
    )


def pack_within(sequences: Sequence[TokenizedSequence], max_tokens: int, device: torch.device) -> list[PackedRow]:
    """Join sequences to as few rows as fit ``max_tokens`` each, in order; a longer sequence gets a row of its own."""
    return [pack(group, device) for group in group_by_tokens(sequences, max_tokens)]


def group_by_tokens(sequences: Sequence[TokenizedSequence], max_tokens: int) -> list[list[TokenizedSequence]]:
    """Neighbours grouped so that each group has at most ``max_tokens``, or is a single longer sequence."""
    groups: list[list[TokenizedSequence]] = []
    room = 0
    for sequence in sequences:
        if not groups or len(sequence.token_ids) > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(sequence)
        room -= len(sequence.token_ids)
    return groups
