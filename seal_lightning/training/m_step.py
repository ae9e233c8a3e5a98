"""The M-step: masked cross-entropy on the tokens the policy chose (ReST-EM, §3.1, equation 2), one optimiser step at a time.

With a binary reward, the policy gradient over kept samples is supervised finetuning on them; the prompt is never trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from seal_lightning.core import BufferRow, OptimizerSpec
from seal_lightning.core.errors import RunError
from seal_lightning.distributed.sharded_layers import clip_gradients
from seal_lightning.inner_loop.schedule import learning_rate_factor
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import TokenizedSequence, gradient_checkpointed, pack
from seal_lightning.models.packed.rows import group_by_tokens
from seal_lightning.training.batches import RowBatch
from seal_lightning.training.policy import Policy


@dataclass(frozen=True, kw_only=True)
class MStep:
    """One round's finetuning of the policy on the buffer."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    spec: OptimizerSpec
    num_steps: int
    """Optimiser steps of the round, for the schedule."""
    max_tokens_per_pass: int
    """≥ 1; a longer row runs alone."""
    gradient_checkpointing: bool
    strategy: Strategy
    backward: Callable[[Tensor], None]
    """Lightning's ``manual_backward``."""

    def take_step(self, batch: RowBatch) -> Tensor:
        """Take one optimiser step and return the loss, [].

        The loss is the mean over all trained tokens of all ranks' rows; each rank returns its rows' share of it, so that
        the shares add up. Raises :class:`RunError` where the gradient is not finite; the policy is then as it was.
        """
        trained = [parameter for group in self.policy.trained() for parameter in group]
        total = self._forward_backward(batch, trained)
        norm = clip_gradients(trained, self.spec.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise RunError(
                f"the M-step's gradient became {norm.item()} at step {batch.step} of round {self.policy.num_finished}; "
                "attempts and accepted edits are kept. Resume with a lower model.reinforce.learning_rate"
            )
        factor = learning_rate_factor(self.spec, batch.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _forward_backward(self, batch: RowBatch, trained: list[torch.nn.Parameter]) -> Tensor:
        """Add the gradients of this rank's rows, in passes that fit; the ranks' are averaged in the last pass."""
        policy = self.policy
        sequences = [tokenize_row(row, policy.language_model) for row in batch.all_rows]
        num_targets = max(1, sum(sequence.num_targets for sequence in sequences))
        own = sequences[batch.rank :: batch.num_ranks]
        weight = batch.num_ranks / num_targets if own else 0.0  # averaging over ranks divides by their number
        groups = group_by_tokens(
            own or sequences[:1], self.max_tokens_per_pass
        )  # without rows it takes part, with weight 0
        num_passes = len(groups) if policy.sharded is None else self._most_passes(sequences, batch.num_ranks)
        device = policy.language_model.device
        total = torch.zeros((), device=device)
        for i in range(num_passes):
            row = pack(groups[i % len(groups)], device)
            synced = nullcontext() if i == num_passes - 1 else self._no_gradient_sync()
            with synced, gradient_checkpointed(policy.model, enabled=self.gradient_checkpointing), policy.learning():
                loss = policy.loss(row) * (weight * float(i < len(groups)))
                self.backward(loss)
            total = total + loss.detach()  # not in place: the loss may have a wider type
        if policy.sharded is not None:
            policy.sharded.average_gradients(trained)
        return total

    def _most_passes(self, sequences: Sequence[TokenizedSequence], num_ranks: int) -> int:
        """Return the passes of the rank with most of them: on sharded layers every pass is a collective of all ranks."""
        shares = [sequences[rank::num_ranks] for rank in range(num_ranks)]
        return max(len(group_by_tokens(share, self.max_tokens_per_pass)) for share in shares if share)

    def _no_gradient_sync(self) -> AbstractContextManager[None]:
        block = getattr(self.strategy, "block_backward_sync", None)
        return nullcontext() if block is None else cast(AbstractContextManager[None], block())


def tokenize_row(row: BufferRow, language_model: LanguageModel) -> TokenizedSequence:
    """Return a row's tokens: the prompt's without loss, then the edit's with it (all, or those the policy chose).

    An edit of another writer has no tokens: its text is tokenised and ended with the model's end token. What exceeds the
    model's context is cut off at the end.

    Raises :class:`RunError` where ``chosen`` and the tokens differ in length.
    """
    prompt = language_model.encode_prompt(row.prompt)
    edit = list(row.token_ids) or [*language_model.encode_text(row.text), language_model.eos_ids[0]]
    chosen = [True] * len(edit) if row.chosen is None else list(row.chosen)
    if len(chosen) != len(edit):
        raise RunError(
            f"the accepted edit {row.edit_index} of task {row.task_id} has {len(edit)} tokens but {len(chosen)} entries in "
            "'chosen'. Remove its line from accepted.jsonl, or start a new run"
        )
    limit = language_model.max_length
    ids, trained = [*prompt, *edit], [False] * len(prompt) + chosen
    return TokenizedSequence(token_ids=tuple(ids[:limit]), trained=tuple(trained[:limit]), truncated=len(ids) > limit)
