"""The inner loop, one adapter after another: θ' = SFT(θ, SE), §3.1 of the paper.

Of each adapter the batches are packed without pads, so a step costs its tokens and nothing else. Gradients are taken of
the adapter's tensors only (``torch.autograd.grad``), which no optimiser or DDP wrapper of the policy ever sees.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seal_lightning.adaptation.packing import (
    PackedRow,
    TokenizedSequence,
    pack_within,
    summed_cross_entropy,
    tokenize,
)
from seal_lightning.errors import ConfigError
from seal_lightning.language_model import LanguageModel
from seal_lightning.lora import LoraAdapter, applied, init_adapter, target_modules
from seal_lightning.schedule import learning_rate_factor
from seal_lightning.seams import InnerLoop
from seal_lightning.seeds import derive_seed
from seal_lightning.types import AdaptationPlan, Adapted, AdapterSpec, Diverged, OptimizerSpec

_logger = logging.getLogger(__name__)


class SequentialInnerLoop(InnerLoop):
    """Trains a throw-away LoRA adapter for each plan, in order.

    Args:
        max_tokens_per_pass: ≥ 1; a batch with more tokens is run in several passes whose gradients add up.
    """

    def __init__(self, max_tokens_per_pass: int = 2048) -> None:
        if max_tokens_per_pass < 1:
            raise ConfigError(
                f"inner_loop.max_tokens_per_pass: {max_tokens_per_pass} is not allowed; it must be at least 1"
            )
        self.max_tokens_per_pass = max_tokens_per_pass
        self._targets: dict[tuple[object, ...], tuple[str, ...]] = {}

    def bind(self, language_model: LanguageModel) -> None:
        """Train adapters of this model from now on."""
        self.language_model = language_model
        self._targets.clear()

    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """One result a plan, in order; the base weights are not touched."""
        return [self._adapt_one(plan, seed) for plan, seed in zip(plans, seeds, strict=True)]

    def _adapt_one(self, plan: AdaptationPlan, seed: int) -> Adapted | Diverged:
        start = time.perf_counter()
        sequences = [tokenize(sequence, self.language_model) for sequence in plan.sequences]
        if not sequences or not all(s.token_ids for s in sequences):
            return Diverged(reason="the plan has no sequences or one with no tokens", step=0)
        if cut := sum(s.truncated for s in sequences):
            _logger.warning("%d sequences over the model's %d tokens were cut", cut, self.language_model.max_length)
        adapter = self._fresh_adapter(plan.adapter, seed)
        run = _AdapterRun(self.language_model, adapter, plan.optimizer, plan.num_steps, seed)
        losses: list[float] = []
        try:
            with torch.enable_grad():
                for batch in _batches(sequences, plan.optimizer, plan.num_steps, seed):
                    losses.append(run.step(pack_within(batch, self.max_tokens_per_pass, self.language_model.device)))
        except _NotFiniteError as error:
            return Diverged(reason=str(error), step=len(losses), seconds=time.perf_counter() - start)
        except torch.OutOfMemoryError:
            return Diverged(reason="out of memory", step=len(losses), seconds=time.perf_counter() - start)
        return Adapted(
            adapter=adapter.detached_copy(self.language_model.device),
            losses=tuple(losses),
            num_tokens=run.num_tokens,
            seconds=time.perf_counter() - start,
        )

    def _fresh_adapter(self, spec: AdapterSpec, seed: int) -> LoraAdapter:
        key = (spec.target_modules, spec.layers)
        if key not in self._targets:
            self._targets[key] = target_modules(self.language_model.model, spec)
        generator = torch.Generator().manual_seed(derive_seed(seed, "adapter"))
        adapter = init_adapter(self.language_model.model, spec, generator, self._targets[key])
        for tensor in adapter.tensors():
            tensor.requires_grad_(True)
        return adapter


class _NotFiniteError(ArithmeticError):
    """The loss or the gradient is NaN or infinite."""


class _AdapterRun:
    """One adapter's training: its optimiser, schedule and dropout generator."""

    def __init__(
        self, language_model: LanguageModel, adapter: LoraAdapter, spec: OptimizerSpec, num_steps: int, seed: int
    ) -> None:
        self.model = language_model.model
        self.adapter = adapter
        self.tensors = adapter.tensors()
        self.max_grad_norm = spec.max_grad_norm
        self.optimizer = torch.optim.AdamW(self.tensors, lr=spec.learning_rate, weight_decay=spec.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(spec, step, num_steps)
        )
        self.dropout = torch.Generator().manual_seed(derive_seed(seed, "dropout")) if adapter.spec.dropout else None
        self.num_tokens = 0

    def step(self, rows: list[PackedRow]) -> float:
        """One optimiser step on a batch; returns its loss, the mean over all its trained tokens."""
        num_targets = max(sum(row.targets.numel() for row in rows), 1)
        loss = 0.0
        gradients: list[Tensor] | None = None
        for row in rows:
            with applied(self.model, self.adapter, self.dropout):
                row_loss = summed_cross_entropy(self.model, row) / num_targets
            row_gradients = torch.autograd.grad(row_loss, self.tensors)
            gradients = (
                list(row_gradients)
                if gradients is None
                else [total + new for total, new in zip(gradients, row_gradients, strict=True)]
            )
            loss += row_loss.item()
            self.num_tokens += row.token_ids.numel()
        for tensor, gradient in zip(self.tensors, gradients or (), strict=True):
            tensor.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.tensors, self.max_grad_norm or math.inf)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise _NotFiniteError(f"loss {loss}, gradient norm {norm.item()}")
        self.optimizer.step()
        self.schedule.step()
        return loss


def _batches(
    sequences: list[TokenizedSequence], spec: OptimizerSpec, num_steps: int, seed: int
) -> Iterator[list[TokenizedSequence]]:
    """``num_steps`` batches; every epoch goes through all sequences in an order of its own."""
    step = epoch = 0
    while step < num_steps:
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        order = torch.randperm(len(sequences), generator=generator).tolist()
        for start in range(0, len(order), spec.batch_size):
            if step == num_steps:
                return
            yield [sequences[i] for i in order[start : start + spec.batch_size]]
            step += 1
        epoch += 1
