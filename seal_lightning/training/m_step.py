"""One optimiser step on the ReST-EM buffer."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from seal_lightning.core.errors import RunError
from seal_lightning.distributed.sharded_layers import clip_gradients
from seal_lightning.inner_loop.schedule import learning_rate_factor
from seal_lightning.models.packed import checkpointed_if
from seal_lightning.training.batches import RowBatch
from seal_lightning.training.m_step_loss import num_trained_tokens, pack_rows

if TYPE_CHECKING:
    from seal_lightning.training.module import SealModule


def take_step(module: SealModule, batch: RowBatch) -> Tensor:
    """One step; returns the loss, the mean over all trained tokens of all ranks' rows (summed over the ranks' shares).

    Raises :class:`RunError` where the gradient is not finite; the policy is then as it was.
    """
    policy, optimizer = module.loaded_policy, cast(torch.optim.Optimizer, module.optimizers())
    total = _backward(module, batch)
    trained = [parameter for group in policy.trained() for parameter in group]
    norm = clip_gradients(trained, module.reinforce.max_grad_norm or math.inf)
    if not torch.isfinite(norm):
        raise RunError(
            f"the M-step's gradient became {norm.item()} at step {batch.step} of round {module.round_index}; attempts "
            "and accepted edits are kept. Resume with a lower model.reinforce.learning_rate"
        )
    factor = learning_rate_factor(module.reinforce, batch.step, int(module.trainer.num_training_batches))
    for group in optimizer.param_groups:
        group["lr"] = module.reinforce.learning_rate * factor
    optimizer.step()
    optimizer.zero_grad()
    return total


def _backward(module: SealModule, batch: RowBatch) -> Tensor:
    """Gradients of this rank's rows, in passes that fit; the ranks' are averaged in the last one."""
    policy = module.loaded_policy
    num_tokens = num_trained_tokens(batch.all_rows, policy.language_model)
    rows = batch.rows or batch.all_rows[:1]  # a rank without a row still takes part, with weight 0
    weight = module.trainer.world_size / num_tokens if batch.rows else 0.0
    packed = pack_rows(rows, policy.language_model, module.max_tokens_per_pass)
    num_passes = len(packed) if policy.sharded is None else _most_passes(module, batch)
    total = torch.zeros((), device=module.device)
    for i in range(num_passes):
        row, counts = packed[i % len(packed)], float(i < len(packed))
        keeping_inputs = checkpointed_if(module.gradient_checkpointing, policy.model)
        synced = nullcontext() if i == num_passes - 1 else _no_gradient_sync(module)
        with synced, keeping_inputs, policy.learning():
            loss = policy.loss(row) * (weight * counts)
            module.manual_backward(loss)
        total = total + loss.detach()  # not in place: the loss may be wider
    if policy.sharded is not None:
        policy.sharded.average_gradients([parameter for group in policy.trained() for parameter in group])
    return total


def _most_passes(module: SealModule, batch: RowBatch) -> int:
    """How many passes the rank with most of them makes: on sharded layers every pass is a collective of all ranks."""
    num_ranks = module.trainer.world_size
    shares = [batch.all_rows[rank::num_ranks] for rank in range(num_ranks)]
    model, limit = module.loaded_policy.language_model, module.max_tokens_per_pass
    return max(len(pack_rows(share, model, limit)) for share in shares if share)


def _no_gradient_sync(module: SealModule) -> AbstractContextManager[None]:
    block = getattr(module.trainer.strategy, "block_backward_sync", None)
    return nullcontext() if block is None else cast(AbstractContextManager[None], block())
