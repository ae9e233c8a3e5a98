"""One optimiser step on the ReST-EM buffer."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from seal_lightning.batches import RowBatch
from seal_lightning.errors import RunError
from seal_lightning.lora import applied
from seal_lightning.packed import checkpointed_if
from seal_lightning.reinforcement import num_trained_tokens, pack_rows
from seal_lightning.schedule import learning_rate_factor

if TYPE_CHECKING:
    from seal_lightning.module import SealModule


def take_step(module: SealModule, batch: RowBatch) -> Tensor:
    """One step; returns the loss, the mean over all trained tokens of all ranks' rows (summed over the ranks' shares).

    Raises :class:`RunError` where the gradient is not finite; the policy is then as it was.
    """
    policy, optimizer = module.loaded_policy, cast(torch.optim.Optimizer, module.optimizers())
    total = _backward(module, batch)
    norm = torch.nn.utils.clip_grad_norm_(policy.lora.parameters(), module.reinforce.max_grad_norm or math.inf)
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
    total = torch.zeros((), device=module.device)
    for i, row in enumerate(packed):
        last = i == len(packed) - 1
        keeping_inputs = checkpointed_if(module.gradient_checkpointing, policy.model)
        synced = nullcontext() if last else _no_gradient_sync(module)
        with synced, keeping_inputs, applied(policy.model, policy.adapter):
            loss = policy.language_model.packed(row).total * weight
            module.manual_backward(loss)
        total += loss.detach()
    return total


def _no_gradient_sync(module: SealModule) -> AbstractContextManager[None]:
    block = getattr(module.trainer.strategy, "block_backward_sync", None)
    return nullcontext() if block is None else cast(AbstractContextManager[None], block())
