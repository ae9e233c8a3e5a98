"""KL divergence of a language model from what it said before, in chunks: no [targets, vocabulary] tensor is there as a whole.

What the model said before is kept as the hidden states that entered its frozen output head, E numbers a target instead of
V; the distributions are made from them chunk by chunk, and the gradient in the same sweep.

Shapes: S targets, E hidden size, V vocabulary, C targets of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seal_lightning.models.frozen_linear import frozen_linear
from seal_lightning.models.packed.cross_entropy import chunk_rows

_BUFFERS = 4
"""Tensors of a chunk's size that are there at once; together they take what a chunk of the cross-entropy does."""


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits squashed into ±softcap, where the model does so."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class ChunkedDivergence(torch.autograd.Function):
    """Hidden states now and before, [S, E], head weight [V, E], bias [V] or None, weights [S] to (Σ weight · KL, KL [S]).

    The divergence is KL(before ‖ now) in nats. The second output carries no gradient. Rows do not touch each other.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SE: Tensor,
        before_SE: Tensor,
        head_VE: Tensor,
        bias_V: Tensor | None,
        weights_S: Tensor,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Divergence, and at once its gradient where one will be asked for."""
        needs_gradient = ctx.needs_input_grad[0]
        gradient_SE = torch.empty_like(hidden_SE) if needs_gradient else None
        rows = chunk_rows(_BUFFERS * head_VE.shape[0], hidden_SE.device)
        wide = torch.promote_types(hidden_SE.dtype, torch.float32)
        divergences_S = torch.empty(len(hidden_SE), dtype=wide, device=hidden_SE.device)
        for start in range(0, len(hidden_SE), rows):
            part = slice(start, start + rows)
            logits_CV = capped(frozen_linear(hidden_SE[part], head_VE, bias_V).to(wide), softcap)
            now_CV = logits_CV.log_softmax(1)
            then_CV = capped(frozen_linear(before_SE[part], head_VE, bias_V).to(wide), softcap).log_softmax(1)
            p_CV = then_CV.exp()
            divergences_S[part] = (then_CV.sub_(now_CV)).mul_(p_CV).sum(1)
            if gradient_SE is not None:
                slope_CV = now_CV.exp_().sub_(p_CV).mul_(weights_S[part, None].to(wide))
                if softcap is not None:
                    slope_CV.mul_(1 - (logits_CV / softcap) ** 2)
                gradient_SE[part] = frozen_linear(slope_CV.to(head_VE.dtype), head_VE.T)
        ctx.gradient_SE = gradient_SE
        ctx.mark_non_differentiable(divergences_S)
        return (divergences_S * weights_S).sum(), divergences_S

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what the forward sweep made."""
        return ctx.gradient_SE * grad_total.to(ctx.gradient_SE.dtype), None, None, None, None, None
