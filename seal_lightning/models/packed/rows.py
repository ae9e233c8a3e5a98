"""Packed rows: sequences of tokens concatenated into one row without pads.

Shapes: T packed tokens, S targets of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenizedSequence:
    """Token ids and, for each, whether it is a target of the loss (never the first, which nothing predicts)."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    truncated: bool = False
    anchored: bool = False
    """Whether the loss at its targets is the divergence from the unadapted model, instead of cross-entropy."""

    @property
    def num_targets(self) -> int:
        """Number of targets."""
        return sum(self.trained)


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Sequences concatenated into one row. A forward pass over it equals one pass per sequence."""

    token_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T], from 0 in each sequence
    lengths: tuple[int, ...]
    """Tokens of each sequence, in the row's order; they sum to T."""
    num_targets: tuple[int, ...]
    """Targets of each sequence, in the row's order; they sum to S."""
    predict_at: Tensor  # [S], positions whose next token is a target
    targets: Tensor  # [S], token ids


def pack(sequences: Sequence[TokenizedSequence], device: torch.device) -> PackedRow:
    """Concatenate sequences into one row."""
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
    """Pack sequences in order into rows of at most ``max_tokens``; a longer sequence gets its own row."""
    return [pack(group, device) for group in group_by_tokens(sequences, max_tokens)]


def group_by_tokens(sequences: Sequence[TokenizedSequence], max_tokens: int) -> list[list[TokenizedSequence]]:
    """Group neighbouring sequences so that each group has at most ``max_tokens``, or is a single longer sequence."""
    groups: list[list[TokenizedSequence]] = []
    room = 0
    for sequence in sequences:
        if not groups or len(sequence.token_ids) > room:
            groups.append([])
            room = max_tokens
        groups[-1].append(sequence)
        room -= len(sequence.token_ids)
    return groups
