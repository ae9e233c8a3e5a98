"""The inner loop, many adapters at once on one frozen base: θ' = SFT(θ, SE), §3.1 of the paper.

The paper trains 750 adapters per round, one after another, each on a few short sequences; alone, none of them keeps a
machine busy. Here each pass packs sequences of many adapters into one row. Attention and loss are per sequence; LoRA,
clipping, AdamW and schedule are per adapter. So each adapter comes out as if trained alone (tests hold this to 1e-12
against PEFT and torch). A finished adapter makes room for a waiting one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from seal_lightning.core import AdaptationPlan, Adapted, AdapterSpec, Diverged
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.interfaces import InnerLoop
from seal_lightning.core.seeds import derive_seed
from seal_lightning.inner_loop.memory import Allowance, MemoryNeeds, allowed, free_bytes, memory_needs
from seal_lightning.inner_loop.side_by_side import ConcurrentAdapters, QueuedPlan
from seal_lightning.inner_loop.tokenizing import anchor_sequences, trainable_sequences, warn_of_cuts
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import AdapterRows, Dropout, LoraAdapter, init_adapter, layer_of, routed, target_modules
from seal_lightning.models.packed import LowerLayers, TokenizedSequence, gradient_checkpointed, pack
from seal_lightning.models.packed.gradient_checkpointing import recomputable_layers

_logger = logging.getLogger(__name__)

_PROBE_TOKENS = 64


class BatchedInnerLoop(InnerLoop):
    """Trains a temporary LoRA adapter for each plan, many side by side.

    Args:
        max_adapters: ≥ 1, adapters in training at once; None takes 16 on a CPU and 32 on an accelerator.
        max_tokens_per_pass: ≥ 1; None takes 512 on a CPU, where more gained nothing, and 8192 on an accelerator.
            An adapter's batch with more tokens is run in several passes whose gradients add up; a longer sequence
            stands alone.
        memory_fraction: in (0, 1], of the free memory that may be used. Where the two limits above do not fit, fewer
            adapters and tokens are used; where memory runs out all the same, tokens are halved and training continues.
        gradient_checkpointing: whether a decoder layer keeps its input only and is recomputed in the backward pass: the
            same adapters (in float64 to 1e-12) from a fraction of a pass's memory, for about a third more time.

    Example:
        >>> BatchedInnerLoop(max_adapters=8, max_tokens_per_pass=2048).max_adapters
        8
    """

    uses_anchor = True

    def __init__(
        self,
        max_adapters: int | None = None,
        max_tokens_per_pass: int | None = None,
        memory_fraction: float = 0.8,
        gradient_checkpointing: bool = False,
    ) -> None:
        if max_adapters is not None and max_adapters < 1:
            raise ConfigError(f"inner_loop.max_adapters: {max_adapters} is not allowed; it must be at least 1, or null")
        if max_tokens_per_pass is not None and max_tokens_per_pass < 1:
            raise ConfigError(
                f"inner_loop.max_tokens_per_pass: {max_tokens_per_pass} is not allowed; it must be at least 1, or null"
            )
        if not 0 < memory_fraction <= 1:
            raise ConfigError(f"inner_loop.memory_fraction: {memory_fraction} is not allowed; it must be in (0, 1]")
        self.max_adapters = max_adapters
        self.max_tokens_per_pass = max_tokens_per_pass
        self.memory_fraction = memory_fraction
        self.gradient_checkpointing = gradient_checkpointing
        self._targets: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._needs: dict[tuple[object, ...], MemoryNeeds] = {}
        self._skippable: dict[int, bool] = {}

    def bind(self, language_model: LanguageModel) -> None:
        """Train adapters of this model from now on.

        Raises :class:`ConfigError` where gradient checkpointing is set and the model does not support it.
        """
        if self.gradient_checkpointing:
            recomputable_layers(language_model.model)
        self.language_model = language_model
        self._targets.clear()
        self._needs.clear()
        self._skippable.clear()

    def adapt(self, plans: Sequence[AdaptationPlan], seeds: Sequence[int]) -> Sequence[Adapted | Diverged]:
        """Return one result per plan, in order; the base weights do not change."""
        results: dict[int, Adapted | Diverged] = {}
        candidates = []
        for index, (plan, seed) in enumerate(zip(plans, seeds, strict=True)):
            sequences = trainable_sequences(plan, self.language_model)
            if isinstance(sequences, Diverged):
                results[index] = sequences
            else:
                anchors = anchor_sequences(plan, self.language_model)
                candidates.append(QueuedPlan(index=index, plan=plan, seed=seed, sequences=sequences, anchors=anchors))
        num_empty = sum(len(c.plan.sequences) - len(c.sequences) for c in candidates)
        warn_of_cuts(num_empty, [s for c in candidates for s in c.sequences], self.language_model.max_length)
        results |= self._train(candidates)
        return [results[index] for index in range(len(plans))]

    def _train(self, candidates: list[QueuedPlan]) -> dict[int, Adapted | Diverged]:
        """Train candidates side by side; one that ran out of memory beside others is retried once, alone."""
        if not candidates:
            return {}
        with torch.enable_grad():
            lower_layers = self._lower_layers(candidates)
            allowance = self._allowance(candidates, keeps_states=lower_layers is not None)
            together = self._side_by_side(allowance, lower_layers)
            results = together.train(candidates)
            for candidate in together.did_not_fit:
                alone = self._side_by_side(Allowance(num_adapters=1, num_tokens=1))
                results |= alone.train([candidate])
                if alone.did_not_fit:
                    results[candidate.index] = Diverged(reason="out of memory", step=alone.failed_at_step)
        return results

    def _side_by_side(self, allowance: Allowance, lower_layers: LowerLayers | None = None) -> ConcurrentAdapters:
        return ConcurrentAdapters(
            self.language_model, self._fresh_adapter, allowance, lower_layers, self.gradient_checkpointing
        )

    def _allowance(self, candidates: list[QueuedPlan], *, keeps_states: bool) -> Allowance:
        """Return what may be trained at once, by the memory that is free now."""
        device = self.language_model.device
        adapters, tokens = (16, 512) if device.type == "cpu" else (32, 8192)
        wish = Allowance(
            num_adapters=min(self.max_adapters or adapters, len(candidates)),
            num_tokens=self.max_tokens_per_pass or tokens,
        )
        of_specs = [self._memory_needs(spec) for spec in dict.fromkeys(c.plan.adapter for c in candidates)]
        needs = MemoryNeeds(
            per_token=max(n.per_token for n in of_specs),
            per_adapter=max(n.per_adapter for n in of_specs),
            result=max(n.result for n in of_specs),
            fixed=max(n.fixed for n in of_specs) + self._kept_until_the_end(candidates, of_specs, keeps_states),
        )
        longest = max(len(s.token_ids) for c in candidates for s in c.all_sequences)
        fits = allowed(needs, int(self.memory_fraction * free_bytes(device)), wish, longest)
        if fits != wish:
            _logger.warning(
                "memory allows %d adapters and %d tokens per pass (configured: %d and %d)",
                fits.num_adapters,
                fits.num_tokens,
                wish.num_adapters,
                wish.num_tokens,
            )
        return fits

    def _kept_until_the_end(self, candidates: list[QueuedPlan], needs: list[MemoryNeeds], keeps_states: bool) -> int:
        """Return the bytes that stay until the call's end.

        These are all trained adapters, the states that enter the lowest adapted layer (where they are kept), and the
        unadapted states of anchored texts.
        """
        model = self.language_model.model
        hidden = int(model.config.get_text_config().hidden_size) * model.dtype.itemsize
        tokens = sum(len(ids) for ids in {s.token_ids for c in candidates for s in c.all_sequences}) * keeps_states
        tokens += sum(len(ids) for ids in {s.token_ids for c in candidates for s in c.anchors})
        kept: int = len(candidates) * max(n.result for n in needs) + tokens * hidden
        return kept

    def _memory_needs(self, spec: AdapterSpec) -> MemoryNeeds:
        """Return the memory needs of one kind of adapter, measured once on the model."""
        key = (spec.target_modules, spec.layers, spec.rank, spec.dropout)
        if key not in self._needs:
            model = self.language_model.model
            adapter = self._fresh_adapter(spec, seed=0)
            length = min(_PROBE_TOKENS, self.language_model.max_length)
            generators = (torch.Generator(self.language_model.device),)
            dropout = Dropout(rate=spec.dropout, sizes=(length,), generators=generators) if spec.dropout else None
            share = AdapterRows(size=length, adapter=adapter, gradients=adapter.weights, dropout=dropout)
            sequence = TokenizedSequence(token_ids=(0,) * length, trained=(False,) + (True,) * (length - 1))
            row = pack([sequence], self.language_model.device)

            forward = self.language_model.packed

            def probe(by_inputs: bool) -> object:
                with gradient_checkpointed(model, enabled=by_inputs), routed(model, [share]):
                    return forward(row)

            vocabulary = int(model.config.get_text_config().vocab_size)
            recomputed = self._num_trained_layers(spec) if self.gradient_checkpointing else None
            self._needs[key] = memory_needs(model, adapter.tensors(), probe, length, vocabulary, recomputed)
        return self._needs[key]

    def _lower_layers(self, candidates: list[QueuedPlan]) -> LowerLayers | None:
        """Return the layers below all adapters, if there are any; built per call, because a merge changes their outputs."""
        modules = {name for spec in {c.plan.adapter for c in candidates} for name in self._target_modules(spec)}
        places = [layer_of(name) for name in modules]
        lists, first = {name for name, _ in places}, min(-1 if index is None else index for _, index in places)
        if len(lists) != 1 or first < 1:
            return None
        lower_layers = LowerLayers(self.language_model.packed, lists.pop(), first)
        if first not in self._skippable:
            self._skippable[first] = lower_layers.can_be_skipped()
        return lower_layers if self._skippable[first] else None

    def _num_trained_layers(self, spec: AdapterSpec) -> int:
        """Return the number of decoder layers from the lowest adapted one on: those whose activations are kept."""
        lowest = min(layer_of(name)[1] or 0 for name in self._target_modules(spec))
        return max(1, len(recomputable_layers(self.language_model.model)) - lowest)

    def _target_modules(self, spec: AdapterSpec) -> tuple[str, ...]:
        key = (spec.target_modules, spec.layers)
        if key not in self._targets:
            self._targets[key] = target_modules(self.language_model.model, spec)
        return self._targets[key]

    def _fresh_adapter(self, spec: AdapterSpec, seed: int) -> LoraAdapter:
        generator = torch.Generator().manual_seed(derive_seed(seed, "adapter"))
        return init_adapter(self.language_model.model, spec, generator, self._target_modules(spec))
