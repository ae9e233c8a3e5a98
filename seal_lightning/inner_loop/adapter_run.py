"""One adapter's training, step by step: its data order, weights, AdamW, schedule and generators.

A run knows nothing of the adapters trained beside it; :class:`ConcurrentAdapters` takes each run's next sequences and
puts them all through the model together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seal_lightning.core import AdaptationPlan, Adapted, Diverged
from seal_lightning.core.seeds import derive_seed
from seal_lightning.inner_loop.schedule import anchor_batches, batches, learning_rate_factor
from seal_lightning.models.lora import AdapterRows, Dropout, LoraAdapter
from seal_lightning.models.packed import TokenizedSequence
from seal_lightning.models.packed.rows import group_by_tokens


class AdapterRun:
    """An adapter in training.

    All weights of A and B are views of one flat tensor, their gradients of another: clipping and AdamW are one call each.

    Args:
        adapter: fresh; its tensors are copied.
        plan: its optimiser and number of steps.
        sequences: its data, none without tokens.
        seed: of the data order and the dropout.
        anchors: the texts of the plan's anchor.
    """

    def __init__(
        self,
        adapter: LoraAdapter,
        plan: AdaptationPlan,
        sequences: Sequence[TokenizedSequence],
        seed: int,
        anchors: Sequence[TokenizedSequence] = (),
    ) -> None:
        self.plan = plan
        self.seed = seed
        self.losses: list[float] = []
        self.num_tokens = 0
        self.seconds = 0.0
        self._loss = torch.zeros(())
        self.remaining_tokens = _total_tokens(sequences, plan) + _anchor_tokens(anchors, plan)
        self._batches = batches(sequences, plan, seed)
        self._anchors = anchor_batches(anchors, plan, seed)
        self._flat = torch.cat([tensor.flatten() for tensor in adapter.tensors()])
        self._gradient = torch.zeros_like(self._flat)
        self.adapter = adapter.from_flat(self._flat)
        self._gradients = adapter.from_flat(self._gradient).weights
        self._flat.grad = self._gradient
        options = plan.optimizer
        self._optimizer = torch.optim.AdamW(
            [self._flat], lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self._begin_step()

    @property
    def finished(self) -> bool:
        """True when all steps are done."""
        return len(self.losses) == self.plan.num_steps

    @property
    def step_is_complete(self) -> bool:
        """True when every sequence of the current batch has been through the model."""
        return not self._pending

    def next_sequences(self, max_tokens: int) -> list[TokenizedSequence]:
        """Return the next sequences of the current batch that fit ``max_tokens``, at least one."""
        return group_by_tokens(self._pending, max_tokens)[0]

    def share(self, sequences: Sequence[TokenizedSequence]) -> AdapterRows:
        """Return the routing of the packed tokens of :meth:`next_sequences` through this adapter."""
        return AdapterRows(
            size=sum(len(s.token_ids) for s in sequences),
            adapter=self.adapter,
            gradients=self._gradients,
            dropout=self._dropout(sequences),
        )

    def loss_weight(self, sequence: TokenizedSequence) -> float:
        """Return the weight of each target of a sequence: 1 / targets of the batch, so that a step's loss is their mean.

        For an anchored sequence it is the anchor's weight / anchored targets of the step.
        """
        return self._weights[sequence.anchored]

    def done(self, sequences: Sequence[TokenizedSequence], loss: Tensor, seconds: float) -> None:
        """Take note that the sequences' gradients were added; ``loss`` [] is their weighted sum."""
        del self._pending[: len(sequences)]
        self._loss = self._loss + loss
        tokens = sum(len(s.token_ids) for s in sequences)
        self.num_tokens += tokens
        self.remaining_tokens -= tokens
        self.seconds += seconds

    def clip(self) -> Tensor:
        """Clip the step's gradient and return its loss and its norm before clipping, [2], still on the device."""
        limit = self.plan.optimizer.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_([self._flat], limit)
        return torch.stack([self._loss.to(norm.dtype), norm])

    def step(self, loss: float) -> bool:
        """Take one AdamW step with the clipped gradient, then begin the next batch. Returns True."""
        options = self.plan.optimizer
        factor = learning_rate_factor(options, len(self.losses), self.plan.num_steps)
        self._optimizer.param_groups[0]["lr"] = options.learning_rate * factor
        self._optimizer.step()
        self.losses.append(loss)
        self._begin_step()
        return True

    def restart_step(self) -> None:
        """Discard the current batch's gradients, as after running out of memory half way."""
        done = len(self._batch) - len(self._pending)
        tokens = sum(len(s.token_ids) for s in self._batch[:done])
        self.num_tokens -= tokens
        self.remaining_tokens += tokens
        self._reset(self._batch)

    def result(self) -> Adapted | Diverged:
        """Return the trained adapter; diverged where the last step left weights that are not finite."""
        self._flat.grad = None  # the adapter's tensors are views of this one, and would keep its gradient alive
        if not self._flat.isfinite().all():
            return Diverged(
                reason="weights not finite after the last step", step=len(self.losses) - 1, seconds=self.seconds
            )
        return Adapted(
            adapter=self.adapter, losses=tuple(self.losses), num_tokens=self.num_tokens, seconds=self.seconds
        )

    def _begin_step(self) -> None:
        self._reset([*next(self._batches, []), *next(self._anchors, [])])

    def _reset(self, batch: list[TokenizedSequence]) -> None:
        self._batch = batch
        num_targets = {held: sum(s.num_targets for s in batch if s.anchored is held) for held in (False, True)}
        weight = self.plan.anchor.weight if self.plan.anchor is not None else 0.0
        self._weights = {False: 1.0 / max(1, num_targets[False]), True: weight / max(1, num_targets[True])}
        self._pending = list(batch)
        self._gradient.zero_()
        self._loss = torch.zeros((), dtype=self._flat.dtype, device=self._flat.device)

    def _dropout(self, sequences: Sequence[TokenizedSequence]) -> Dropout | None:
        """Return a generator per sequence, seeded by step and index: masks do not depend on the sequences beside it."""
        if not self.adapter.spec.dropout:
            return None
        first = len(self._batch) - len(self._pending)
        generators = [
            torch.Generator(self._flat.device).manual_seed(
                derive_seed(self.seed, "dropout", len(self.losses), first + i)
            )
            for i in range(len(sequences))
        ]
        sizes = tuple(len(s.token_ids) for s in sequences)
        return Dropout(rate=self.adapter.spec.dropout, sizes=sizes, generators=tuple(generators))


def _total_tokens(sequences: Sequence[TokenizedSequence], plan: AdaptationPlan) -> int:
    """Return about how many tokens the plan trains on; exact where every step has an equal part of an epoch."""
    tokens = sum(len(s.token_ids) for s in sequences)
    return tokens * plan.num_steps // plan.num_batches(len(sequences))


def _anchor_tokens(anchors: Sequence[TokenizedSequence], plan: AdaptationPlan) -> int:
    """Return about how many tokens of the anchor's texts the plan trains on."""
    if plan.anchor is None or not anchors:
        return 0
    size = min(plan.anchor.batch_size or len(anchors), len(anchors))
    return sum(len(s.token_ids) for s in anchors) * plan.num_steps * size // len(anchors)
