"""Forward pass of a causal language model over a packed row, up to its targets' losses.

Shapes: T packed tokens, S targets, E hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from seal_lightning.core.errors import ConfigError, ModelError
from seal_lightning.models.packed.attention import packed_attention
from seal_lightning.models.packed.losses import ChunkedCrossEntropy, ChunkedDivergence, softcapped
from seal_lightning.models.packed.rows import PackedRow, TokenizedSequence, pack


@dataclass(frozen=True, kw_only=True)
class PackedLoss:
    """The result of a pass over a packed row."""

    total: Tensor
    """Scalar: the weighted sum of the targets' losses, to be differentiated."""
    losses: Tensor
    """[S] cross-entropy of each target in nats (negative log-probability), or of an anchored target the divergence; without
    gradient."""


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """Targets of a row at which the loss is the divergence from earlier predictions; A of them."""

    at: Tensor  # [S], bool
    states: Tensor  # [A, E], earlier hidden states before the output head


class PackedForward:
    """Runs a model over packed rows. The model is checked once: packed and single sequences must have the same losses.

    Raises :class:`ModelError` where they differ: a recurrent layer, for example, carries one sequence's state into the next.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._decoder: Any = model.get_decoder()
        self._chunked = True
        self._softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self._check()

    def __call__(self, row: PackedRow, weights: Tensor | None = None, anchored: Anchored | None = None) -> PackedLoss:
        """Return the losses of a row's targets; ``weights`` [S] default to 1. Anchored targets' losses are divergences."""
        if weights is None:
            weights = torch.ones(len(row.targets), device=row.targets.device)
        with packed_attention(self.model, row.lengths, row.token_ids.device):
            return self._chunked_loss(row, weights, anchored) if self._chunked else self._whole_loss(row, weights)

    def hidden_states(self, row: PackedRow) -> Tensor:
        """Return the inputs [S, E] of the output head that predict the targets."""
        with packed_attention(self.model, row.lengths, row.token_ids.device):
            return self._hidden_states(row)

    def log_probs(self, hidden_SE: Tensor, head_VE: Tensor, bias_V: Tensor | None) -> Tensor:
        """Return the log-probabilities [S, V] of a linear head, all at once."""
        logits_SV = F.linear(hidden_SE, head_VE, bias_V)
        return softcapped(logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32)), self._softcap).log_softmax(
            1
        )

    def check_anchors(self) -> None:
        """Raise :class:`ConfigError` where the output head is more than a linear layer: anchors store its input."""
        if not self._chunked:
            raise ConfigError(
                f"anchor: {type(self.model).__name__} computes more than a linear layer in its output head, which an "
                "anchor does not support; remove the anchor, or use another model"
            )

    def loss_with_trained_head(self, row: PackedRow) -> Tensor:
        """Return the sum of the targets' losses, with a gradient for the output head too; all logits exist at once."""
        with packed_attention(self.model, row.lengths, row.token_ids.device):
            return self._whole_loss(row, torch.ones(len(row.targets), device=row.targets.device)).total

    def divergence_with_trained_head(self, row: PackedRow, log_probs_SV: Tensor) -> Tensor:
        """Return the sum over a row's targets of KL(given ‖ model), with a gradient for the output head too."""
        with packed_attention(self.model, row.lengths, row.token_ids.device):
            head = self.model.get_output_embeddings()
            found_SV = self.log_probs(self._hidden_states(row), head.weight, getattr(head, "bias", None))
        return F.kl_div(found_SV, log_probs_SV, reduction="sum", log_target=True)

    def _hidden_states(self, row: PackedRow) -> Tensor:
        hidden_TE: Tensor = self._decoder(
            input_ids=row.token_ids, position_ids=row.position_ids, use_cache=False
        ).last_hidden_state[0]
        return hidden_TE[row.predict_at]

    def _chunked_loss(self, row: PackedRow, weights_S: Tensor, anchored: Anchored | None) -> PackedLoss:
        """Return the cross-entropy of trained targets and the divergence of anchored ones."""
        hidden_SE = self._hidden_states(row)
        head = self.model.get_output_embeddings()
        head_VE, bias_V = head.weight.detach(), getattr(head, "bias", None)
        if anchored is None:
            total, losses = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
                hidden_SE, head_VE, bias_V, row.targets, weights_S, self._softcap
            )
            return PackedLoss(total=total, losses=losses)
        at, rest = anchored.at, ~anchored.at
        total, losses = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_SE[rest], head_VE, bias_V, row.targets[rest], weights_S[rest], self._softcap
        )
        divergence, divergences = ChunkedDivergence.apply(  # type: ignore[no-untyped-call]
            hidden_SE[at], anchored.states, head_VE, bias_V, weights_S[at], self._softcap
        )
        losses_S = torch.empty(len(row.targets), dtype=losses.dtype, device=losses.device)
        losses_S[rest], losses_S[at] = losses, divergences
        return PackedLoss(total=total + divergence, losses=losses_S)

    def _whole_loss(self, row: PackedRow, weights: Tensor) -> PackedLoss:
        """Return the losses from the model's own logits, for output heads that are more than a linear layer."""
        logits_SV = self.model(
            input_ids=row.token_ids,
            position_ids=row.position_ids,
            use_cache=False,
            logits_to_keep=row.predict_at,
        ).logits[0]
        wide = torch.promote_types(logits_SV.dtype, torch.float32)
        losses = F.cross_entropy(logits_SV.to(wide), row.targets, reduction="none")
        return PackedLoss(total=(losses * weights).sum(), losses=losses.detach())

    @torch.no_grad()
    def _check(self) -> None:
        sequences = probe_sequences(self.model)
        row = pack(sequences, next(self.model.parameters()).device)
        expected = torch.cat([self._alone(s, row.targets.device) for s in sequences])
        if agree(self(row).losses, expected, self.model):
            return
        self._chunked = False
        if not agree(self(row).losses, expected, self.model):
            raise ModelError(
                f"{type(self.model).__name__} has other losses for packed sequences than for single ones: its layers "
                "carry state across sequences (a recurrent or linear-attention layer?). Use another model"
            )

    def _alone(self, sequence: TokenizedSequence, device: torch.device) -> Tensor:
        ids = torch.tensor([sequence.token_ids], device=device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1]
        return F.cross_entropy(logits.float(), ids[0, 1:], reduction="none")


def probe_sequences(model: PreTrainedModel) -> list[TokenizedSequence]:
    """Return two short sequences to check a model on."""
    ids = [7 * i % model.config.get_text_config().vocab_size for i in range(1, 12)]
    return [
        TokenizedSequence(token_ids=tuple(part), trained=(False, *[True] * (len(part) - 1)))
        for part in (ids[:7], ids[7:])
    ]


def agree(losses: Tensor, expected: Tensor, model: PreTrainedModel) -> bool:
    """Return whether two computations of the same losses agree within the model's precision."""
    tolerance = 0.2 if model.dtype.itemsize < 4 else 1e-3
    return bool(torch.allclose(losses.float(), expected.float(), rtol=1e-3, atol=tolerance))
