"""Losses of a language model's frozen output head in chunks: the [targets, vocabulary] logits never exist as a whole.

The gradient with respect to the hidden states is computed in the same sweep as the loss, so a chunk's logits serve both and
are then overwritten by the next chunk's. Rows do not affect each other: a NaN in one stays there.

Shapes: S targets, E hidden size, V vocabulary, C targets of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seal_lightning.models.frozen_linear import frozen_linear

_CHUNK_ELEMENTS = {"cpu": 31 << 18, "cuda": 1 << 27}
# Tensors of a chunk's size that the divergence holds at once; together they are as large as a chunk of the cross-entropy.
_DIVERGENCE_BUFFERS = 4


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Return the number of targets whose logits exist at once: 31 MiB of float32 on a CPU, 512 MiB on an accelerator.

    From 32 MiB on, glibc requests each buffer from the system and returns it, which costs 8,192 page faults.
    """
    return max(1, _CHUNK_ELEMENTS.get(device.type, 1 << 27) // vocabulary)


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return the logits squashed into ±softcap; unchanged for None."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class ChunkedCrossEntropy(torch.autograd.Function):
    """Computes (Σ weight · loss, loss [S]) from hidden states; the second output carries no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SE: Tensor,
        head_VE: Tensor,
        bias_V: Tensor | None,
        targets_S: Tensor,
        weights_S: Tensor,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the losses in nats; their gradient is computed at once, if needed."""
        needs_gradient = ctx.needs_input_grad[0]
        gradient_SE = torch.empty_like(hidden_SE) if needs_gradient else None
        rows = chunk_rows(head_VE.shape[0], hidden_SE.device)
        wide = torch.promote_types(hidden_SE.dtype, torch.float32)
        losses_S = torch.empty(len(targets_S), dtype=wide, device=hidden_SE.device)
        for start in range(0, len(targets_S), rows):
            part = slice(start, start + rows)
            targets_C = targets_S[part, None]  # [C, 1]
            logits_CV = frozen_linear(hidden_SE[part], head_VE, bias_V).to(wide)
            if softcap is not None:
                logits_CV = torch.tanh_(logits_CV.div_(softcap)).mul_(softcap)
            slope_CV = 1 - (logits_CV / softcap) ** 2 if softcap is not None and needs_gradient else None
            chosen_C = logits_CV.gather(1, targets_C).squeeze(1)
            highest_C = logits_CV.amax(dim=1)
            odds_CV = logits_CV.sub_(highest_C[:, None]).exp_()  # in the logits' memory
            sum_C = odds_CV.sum(dim=1)
            losses_S[part] = sum_C.log() + highest_C - chosen_C
            if gradient_SE is not None:
                weights_C = weights_S[part].to(wide)
                odds_CV.mul_((weights_C / sum_C)[:, None])
                odds_CV.scatter_add_(1, targets_C, -weights_C[:, None])
                if slope_CV is not None:
                    odds_CV.mul_(slope_CV)
                gradient_SE[part] = frozen_linear(odds_CV.to(head_VE.dtype), head_VE.T)
        ctx.gradient_SE = gradient_SE
        ctx.mark_non_differentiable(losses_S)
        return (losses_S * weights_S).sum(), losses_S

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient of the forward sweep."""
        return ctx.gradient_SE * grad_total.to(ctx.gradient_SE.dtype), None, None, None, None, None


class ChunkedDivergence(torch.autograd.Function):
    """Computes (Σ weight · KL, KL [S]) from hidden states now and before; the second output carries no gradient.

    KL(before ‖ now) is in nats. The earlier predictions are kept as the hidden states that entered the output head, E numbers
    per target instead of V; the distributions are computed from them chunk by chunk.
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
        """Return the divergences; their gradient is computed at once, if needed."""
        needs_gradient = ctx.needs_input_grad[0]
        gradient_SE = torch.empty_like(hidden_SE) if needs_gradient else None
        rows = chunk_rows(_DIVERGENCE_BUFFERS * head_VE.shape[0], hidden_SE.device)
        wide = torch.promote_types(hidden_SE.dtype, torch.float32)
        divergences_S = torch.empty(len(hidden_SE), dtype=wide, device=hidden_SE.device)
        for start in range(0, len(hidden_SE), rows):
            part = slice(start, start + rows)
            logits_CV = softcapped(frozen_linear(hidden_SE[part], head_VE, bias_V).to(wide), softcap)
            now_CV = logits_CV.log_softmax(1)
            then_CV = softcapped(frozen_linear(before_SE[part], head_VE, bias_V).to(wide), softcap).log_softmax(1)
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

    backward = ChunkedCrossEntropy.backward
