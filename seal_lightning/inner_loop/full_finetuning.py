"""Full finetuning as an inner loop: all weights of a model learn one plan (continued pretraining in the paper's v2).

The model's own weights are trained in place, copied as the result, and restored.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from seal_lightning.core import AdaptationPlan, Adapted, Diverged
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.interfaces import InnerLoop
from seal_lightning.distributed import interruption
from seal_lightning.inner_loop.schedule import anchor_batches, batches, learning_rate_factor
from seal_lightning.inner_loop.tokenizing import anchor_sequences, trainable_sequences, warn_of_cuts
from seal_lightning.inner_loop.whole_weights import FinetunedWeights, scratch_weights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.out_of_memory import is_out_of_memory
from seal_lightning.models.packed import TokenizedSequence, UnadaptedStates, gradient_checkpointed, pack
from seal_lightning.models.packed.gradient_checkpointing import recomputable_layers
from seal_lightning.models.packed.rows import group_by_tokens
from seal_lightning.models.quantization import is_quantized

_logger = logging.getLogger(__name__)


class FullFinetuning(InnerLoop):
    """Trains all weights of the model on each plan, one plan after another; a plan's adapter is ignored.

    AdamW keeps float32 weights of a model in less, and writes them back rounded: updates of 7e-5 are lost in bfloat16.

    Args:
        max_tokens_per_pass: ≥ 1; a batch with more is run in several passes whose gradients add up. None takes 512 on a CPU
            and 4096 on an accelerator. Where memory runs out, the training restarts with half of it.
        gradient_checkpointing: whether a decoder layer keeps its input only and is recomputed in the backward pass.

    Example:
        >>> FullFinetuning(max_tokens_per_pass=1024).max_results
        1
    """

    max_results = 1
    uses_adapter_spec = False
    uses_anchor = True

    def __init__(self, max_tokens_per_pass: int | None = None, gradient_checkpointing: bool = False) -> None:
        if max_tokens_per_pass is not None and max_tokens_per_pass < 1:
            raise ConfigError(
                f"inner_loop.max_tokens_per_pass: {max_tokens_per_pass} is not allowed; it must be at least 1, or null"
            )
        self.max_tokens_per_pass = max_tokens_per_pass
        self.gradient_checkpointing = gradient_checkpointing

    def bind(self, language_model: LanguageModel) -> None:
        """Finetune this model from now on.

        Raises :class:`ConfigError` where it is quantised, or where gradient checkpointing is set and not supported.
        """
        if is_quantized(language_model.model):
            raise ConfigError(
                "model.inner_loop: FullFinetuning is not allowed with a model in 4 bits, whose weights cannot be trained. "
                "Set model.pretrained.quantization (of a student: model.student.quantization) to null, or take LoRA "
                "(seal_lightning.inner_loop.BatchedInnerLoop)"
            )
        if self.gradient_checkpointing:
            recomputable_layers(language_model.model)
        self.language_model = language_model

    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """Return one result per plan, in order; after each, the model's weights are bit for bit what they were."""
        return [self._adapt(plan, seed) for plan, seed in zip(plans, seeds, strict=True)]

    def _adapt(self, plan: AdaptationPlan, seed: int) -> Adapted | Diverged:
        sequences = trainable_sequences(plan, self.language_model)
        if isinstance(sequences, Diverged):
            return sequences
        model = self.language_model.model
        warn_of_cuts(len(plan.sequences) - len(sequences), sequences, self.language_model.max_length)
        max_tokens = self.max_tokens_per_pass or (512 if self.language_model.device.type == "cpu" else 4096)
        while True:
            with torch.enable_grad(), scratch_weights(self.language_model):
                try:
                    return self._train(plan, sequences, seed, max_tokens)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    self._check_can_shrink(max_tokens, sequences, error)
                finally:
                    model.requires_grad_(False)
                    model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            max_tokens //= 2
            _logger.warning("out of memory: restarting the training with %d tokens per pass", max_tokens)

    def _check_can_shrink(self, max_tokens: int, sequences: Sequence[TokenizedSequence], error: RuntimeError) -> None:
        """Raise :class:`RunError` where each pass has a single sequence already: other plans would not fit either."""
        if max_tokens > min(len(sequence.token_ids) for sequence in sequences):
            return
        parameters = sum(parameter.numel() for parameter in self.language_model.model.parameters())
        size = self.language_model.model.dtype.itemsize
        gigabytes = parameters * (2 * size + (12 if size < 4 else 2 * size)) / 1e9
        raise RunError(
            f"out of memory in full finetuning with a single sequence per pass: weights, gradients and AdamW's states of "
            f"{parameters / 1e9:.2f} billion parameters take {gigabytes:.0f} GB, and activations more. Stored attempts are "
            "kept. Use a smaller model, a larger device, or LoRA (seal_lightning.inner_loop.BatchedInnerLoop)"
        ) from error

    def _train(
        self, plan: AdaptationPlan, sequences: Sequence[TokenizedSequence], seed: int, max_tokens: int
    ) -> Adapted | Diverged:
        start = time.perf_counter()
        anchors = anchor_sequences(plan, self.language_model)
        held = None
        if anchors:
            held = _UnadaptedModel(self.language_model, anchors, max_tokens, self.gradient_checkpointing)
        model = self.language_model.model.requires_grad_(True)
        weights = _Float32Weights(list(model.parameters()))
        options = plan.optimizer
        optimizer = torch.optim.AdamW(
            weights.wide, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        losses: list[float] = []
        num_tokens = 0
        steps = zip(batches(sequences, plan, seed), anchor_batches(anchors, plan, seed), strict=True)
        for step, (batch, anchored) in enumerate(steps):
            interruption.check()
            loss = self._forward_backward(batch, max_tokens)
            if held is not None and plan.anchor is not None:
                loss += held.forward_backward(anchored, plan.anchor.weight)
            weights.take_gradients()
            norm = torch.nn.utils.clip_grad_norm_(weights.wide, options.max_grad_norm or math.inf)
            if not (math.isfinite(loss) and torch.isfinite(norm)):
                seconds = time.perf_counter() - start
                return Diverged(reason=f"loss {loss}, gradient norm {norm.item()}", step=step, seconds=seconds)
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * learning_rate_factor(options, step, plan.num_steps)
            optimizer.step()
            weights.write_back()
            losses.append(loss)
            num_tokens += sum(len(sequence.token_ids) for sequence in (*batch, *anchored))
        trained = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
        seconds = time.perf_counter() - start
        if not all(tensor.isfinite().all() for tensor in trained.values()):
            return Diverged(reason="weights not finite after the last step", step=len(losses) - 1, seconds=seconds)
        adapter = FinetunedWeights(self.language_model, trained)
        return Adapted(adapter=adapter, losses=tuple(losses), num_tokens=num_tokens, seconds=seconds)

    def _forward_backward(self, batch: Sequence[TokenizedSequence], max_tokens: int) -> float:
        """Add the gradients of a batch's mean loss over its targets; returns that loss."""
        language_model = self.language_model
        num_targets = max(1, sum(sequence.num_targets for sequence in batch))
        total = 0.0
        for group in group_by_tokens(batch, max_tokens):
            with gradient_checkpointed(language_model.model, enabled=self.gradient_checkpointing):
                loss = language_model.packed.loss_with_trained_head(pack(group, language_model.device)) / num_targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


class _UnadaptedModel:
    """The model's distribution on its anchor texts before training, and the KL penalty for leaving it."""

    def __init__(
        self,
        language_model: LanguageModel,
        anchors: Sequence[TokenizedSequence],
        max_tokens: int,
        gradient_checkpointing: bool,
    ) -> None:
        self.language_model = language_model
        self.max_tokens = max_tokens
        self.gradient_checkpointing = gradient_checkpointing
        self._states = UnadaptedStates(language_model.packed, max_tokens)
        self._states.states(anchors)
        head = language_model.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        self._head = head.weight.detach().clone(), None if bias is None else bias.detach().clone()

    def forward_backward(self, anchored: Sequence[TokenizedSequence], weight: float) -> float:
        """Add the gradients of weight · mean KL over the texts' targets; return that penalty."""
        language_model = self.language_model
        num_targets = sum(sequence.num_targets for sequence in anchored)
        total = 0.0
        for group in group_by_tokens(anchored, self.max_tokens):
            with torch.no_grad():
                log_probs = language_model.packed.log_probs(self._states.states(group), *self._head)
            with gradient_checkpointed(language_model.model, enabled=self.gradient_checkpointing):
                divergence = language_model.packed.divergence_with_trained_head(
                    pack(group, language_model.device), log_probs
                )
            loss = divergence * (weight / num_targets)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


class _Float32Weights:
    """The weights that AdamW updates: a model's own, or float32 copies of them."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.wide: list[Tensor] = [
            p if p.dtype.itemsize >= 4 else p.detach().float().requires_grad_(True) for p in parameters
        ]

    def take_gradients(self) -> None:
        """Move the model's gradients to the optimised weights."""
        for parameter, wide in zip(self.parameters, self.wide, strict=True):
            if wide is not parameter and parameter.grad is not None:
                wide.grad = parameter.grad.float()
                parameter.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the optimised weights into the model and drop the gradients."""
        for parameter, wide in zip(self.parameters, self.wide, strict=True):
            wide.grad = None
            if wide is not parameter:
                parameter.copy_(wide)
