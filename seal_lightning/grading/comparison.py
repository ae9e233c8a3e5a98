"""Compares a gold answer with an answer, token by token: decomposable attention over a frozen encoder's states.

Parikh et al., arXiv 1606.01933: each token of the one text is compared with what it attends to in the other, and the
comparisons are pooled. What is learned are a projection, the attention's sharpness and a small comparing layer; with a
few hundred different questions to learn from, finetuning the encoder itself learns the questions by heart instead.

Shape suffixes: B answers, G tokens of the gold answer, A tokens of the answer, S size of a state, P projected, H hidden,
M measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from seal_lightning.grading.answer_measures import NUM_MEASURES
from seal_lightning.grading.token_states import STATE_SIZE

NUM_ALIGNMENTS = 4
_STATE_SCALE = 0.25  # the encoder's states have a norm of 8 or so
_FAR = -2.0  # below every cosine


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A batch of gold answers and answers, padded, with masks that are True where a token is."""

    gold: Tensor
    """(B, G, S)"""
    gold_mask: Tensor
    """(B, G)"""
    answer: Tensor
    """(B, A, S)"""
    answer_mask: Tensor
    """(B, A)"""
    measures: Tensor
    """(B, M), what the words tell."""

    @classmethod
    def of(cls, golds: Sequence[Tensor], answers: Sequence[Tensor], measures: Sequence[Sequence[float]]) -> Compared:
        """From each text's states, at least one, and each answer's measures."""
        padded = [pad_sequence(list(states), batch_first=True).float() for states in (golds, answers)]
        masks = []
        for states, batch in zip((golds, answers), padded, strict=True):
            lengths = torch.tensor([len(one) for one in states], device=batch.device)
            masks.append(torch.arange(batch.shape[1], device=batch.device) < lengths[:, None])
        return cls(
            gold=padded[0],
            gold_mask=masks[0],
            answer=padded[1],
            answer_mask=masks[1],
            measures=torch.tensor(measures, dtype=torch.float32, device=padded[0].device),
        )


def alignments(batch: Compared) -> Tensor:
    """How well the texts' states match, (B, 4), in [−1, 1].

    The mean and the least of each gold token's best match, the mean of each answer token's (BERTScore, Zhang et al.,
    arXiv 1904.09675), and the cosine of both texts' means.
    """
    cosines_BGA = functional.normalize(batch.gold, dim=-1) @ functional.normalize(batch.answer, dim=-1).mT
    found_BG = cosines_BGA.masked_fill(~batch.answer_mask[:, None], _FAR).amax(2)
    backed_BA = cosines_BGA.masked_fill(~batch.gold_mask[..., None], _FAR).amax(1)
    least_B = found_BG.masked_fill(~batch.gold_mask, 1.0).amin(1)
    gold_BS, answer_BS = _mean(batch.gold, batch.gold_mask), _mean(batch.answer, batch.answer_mask)
    whole_B = functional.cosine_similarity(gold_BS, answer_BS, dim=1)
    recall_B, precision_B = _mean(found_BG, batch.gold_mask), _mean(backed_BA, batch.answer_mask)
    return torch.stack([recall_B, least_B, precision_B, whole_B], dim=1)


class Comparison(nn.Module):
    """The log-odds that an answer is right: a logistic regression on measures plus what comparing the tokens adds.

    Args:
        projected: ≥ 1, size of a projected state.
        hidden: ≥ 1, size of a comparison.
        dropout: In [0, 1), in training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, projected: int = 64, hidden: int = 64, dropout: float = 0.4) -> None:
        super().__init__()
        num_measures = NUM_MEASURES + NUM_ALIGNMENTS
        self.register_buffer("mean", torch.zeros(num_measures))
        self.register_buffer("scale", torch.ones(num_measures))
        self.measured = nn.Linear(num_measures, 1)
        self.project = nn.Linear(STATE_SIZE, projected, bias=False)
        self.weigh = nn.Linear(STATE_SIZE, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(2.5))
        self.compare = nn.Linear(4 * projected, hidden)
        self.pool = nn.Linear(2 * hidden + 4, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.orthogonal_(self.project.weight)
        for layer in (self.weigh, self.pool, self.measured):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: Compared) -> Tensor:
        """Log-odds, (B,)."""
        return self.by_measures(batch) + self._by_tokens(batch)

    def by_measures(self, batch: Compared) -> Tensor:
        """The logistic regression's part, (B,)."""
        measured_BM = torch.cat([batch.measures, alignments(batch)], dim=1)
        return self.measured((measured_BM - self.mean) / self.scale).squeeze(1)  # type: ignore[no-any-return]

    def _by_tokens(self, batch: Compared) -> Tensor:
        gold_BGS, answer_BAS = (_STATE_SCALE * self.dropout(states) for states in (batch.gold, batch.answer))
        gold_BGP, answer_BAP = self.project(gold_BGS), self.project(answer_BAS)
        cosines_BGA = functional.normalize(gold_BGP, dim=-1) @ functional.normalize(answer_BAP, dim=-1).mT
        sharpness = self.log_sharpness.exp()

        def attend(dim: int, mask: Tensor) -> Tensor:
            return (sharpness * cosines_BGA).masked_fill(~mask, float("-inf")).softmax(dim)

        attention_BGA = attend(2, batch.answer_mask[:, None])
        met_BGP = attention_BGA @ answer_BAP
        pairs = [gold_BGP, met_BGP, gold_BGP * met_BGP, (gold_BGP - met_BGP).abs()]
        compared_BGH = self.dropout(functional.relu(self.compare(self.dropout(torch.cat(pairs, dim=-1)))))
        compared_BGH = compared_BGH.masked_fill(~batch.gold_mask[..., None], 0.0)

        found_BG = (attention_BGA * cosines_BGA).sum(2)
        backed_BA = (attend(1, batch.gold_mask[..., None]) * cosines_BGA).sum(1)
        weights_BG = self.weigh(gold_BGS).squeeze(2).masked_fill(~batch.gold_mask, float("-inf")).softmax(1)
        worst_BG = (-sharpness * found_BG).masked_fill(~batch.gold_mask, float("-inf")).softmax(1)
        matches = [
            (weights_BG * found_BG).sum(1),
            _mean(found_BG, batch.gold_mask),
            (worst_BG * found_BG).sum(1),
            _mean(backed_BA, batch.answer_mask),
        ]
        pooled = [(weights_BG[..., None] * compared_BGH).sum(1), compared_BGH.amax(1), torch.stack(matches, dim=1)]
        return self.pool(torch.cat(pooled, dim=1)).squeeze(1)  # type: ignore[no-any-return]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the second dimension, of what the mask has."""
    weights = mask.float() if values.dim() == 2 else mask.float()[..., None]
    return (values * weights).sum(1) / weights.sum(1)
