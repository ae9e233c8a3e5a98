"""Training sequences to packed rows: no pads, each sequence blind to its neighbours.

Shapes: T packed tokens, S trained positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from seal_lightning.language_model import LanguageModel
from seal_lightning.types import TrainingSequence


@dataclass(frozen=True, kw_only=True)
class TokenizedSequence:
    """Token ids and, for each, whether the loss counts it as a target (never the first: nothing predicts it)."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    truncated: bool = False

    @property
    def num_targets(self) -> int:
        """How many tokens the loss counts."""
        return sum(self.trained)


def tokenize(sequence: TrainingSequence, language_model: LanguageModel) -> TokenizedSequence:
    """Tokenise each segment apart, behind the model's begin tokens; what is over the model's context is cut off."""
    ids = list(language_model.bos_ids)
    trained = [False] * len(ids)
    for segment in sequence.segments:
        segment_ids = language_model.encode_text(segment.text)
        ids += segment_ids
        trained += [segment.trained] * len(segment_ids)
    if trained:
        trained[0] = False
    limit = language_model.max_length
    return TokenizedSequence(token_ids=tuple(ids[:limit]), trained=tuple(trained[:limit]), truncated=len(ids) > limit)


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Sequences joined to one row. A forward pass over it equals one pass a sequence."""

    token_ids: Tensor
    """[1, T]"""
    position_ids: Tensor
    """[1, T]; starts again at 0 with each sequence."""
    attention_mask: Tensor
    """[1, 1, T, T] boolean, true where the row's token may look: itself and what is before it in its own sequence."""
    predict_at: Tensor
    """[S] positions whose next token is a target."""
    targets: Tensor
    """[S] token ids."""


def pack(sequences: Sequence[TokenizedSequence], device: torch.device) -> PackedRow:
    """Join sequences to one row."""
    lengths = torch.tensor([len(s.token_ids) for s in sequences])
    ids = torch.tensor([i for s in sequences for i in s.token_ids])
    trained = torch.tensor([t for s in sequences for t in s.trained])
    segment = torch.repeat_interleave(torch.arange(len(sequences)), lengths)
    position = torch.cat([torch.arange(int(n)) for n in lengths])
    mask = (segment[:, None] == segment[None, :]) & (position[:, None] >= position[None, :])
    target_at = trained.nonzero().squeeze(1)
    return PackedRow(
        token_ids=ids[None].to(device),
        position_ids=position[None].to(device),
        attention_mask=mask[None, None].to(device),
        predict_at=(target_at - 1).to(device),
        targets=ids[target_at].to(device),
    )


def pack_within(sequences: Sequence[TokenizedSequence], max_tokens: int, device: torch.device) -> list[PackedRow]:
    """Join sequences to as few rows as fit ``max_tokens`` each, in order; a longer sequence gets a row of its own."""
    rows: list[list[TokenizedSequence]] = []
    room = 0
    for sequence in sequences:
        if not rows or len(sequence.token_ids) > room:
            rows.append([])
            room = max_tokens
        rows[-1].append(sequence)
        room -= len(sequence.token_ids)
    return [pack(row, device) for row in rows]


def summed_cross_entropy(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """The cross-entropy (nats) of a row's targets, summed; logits are made at the trained positions only."""
    logits_SV = model(
        input_ids=row.token_ids,
        position_ids=row.position_ids,
        attention_mask=row.attention_mask,
        use_cache=False,
        logits_to_keep=row.predict_at,
    ).logits[0]
    return F.cross_entropy(
        logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32)), row.targets, reduction="sum"
    )
