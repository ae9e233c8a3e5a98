"""The policy: a frozen base, the LoRA of each past round merged into it, and the LoRA this round's M-step trains.

To a base in 4 bits nothing is added: past rounds' updates are kept beside it, so that each is exact.
A checkpoint holds the LoRAs, not the base: replaying the merges on the pretrained weights gives the policy of any round,
bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seal_lightning import lora
from seal_lightning.errors import ConfigError, ModelError, shown
from seal_lightning.language_model import LanguageModel
from seal_lightning.lora import LoraAdapter, init_adapter, joined, save_adapter, target_modules
from seal_lightning.pretrained import Pretrained
from seal_lightning.quantization import is_quantized
from seal_lightning.seeds import derive_seed
from seal_lightning.types import AdapterSpec

LoraState = dict[str, Tensor]


class Policy(nn.Module):
    """LM_θ. Its only trainable parameters are the current round's LoRA; they live on through every merge."""

    def __init__(self, pretrained: Pretrained, spec: AdapterSpec, seed: int, *, together: bool = False) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.spec = spec
        self.seed = seed
        self.language_model = pretrained.load(together=together)
        self.model = self.language_model.model
        self.module_names = target_modules(self.model, spec)
        self.merged: list[LoraAdapter] = []
        """The LoRA of each finished round."""
        self.num_rounds = 0
        """How many of them are in the weights: all, except while an earlier policy is looked at."""
        self.lora = nn.ParameterList([nn.Parameter(tensor) for tensor in self._fresh().tensors()])

    @property
    def adapter(self) -> LoraAdapter:
        """This round's LoRA; before its first M-step its update is zero."""
        return LoraAdapter(spec=self.spec, weights=self._by_name(list(self.lora)))

    def merge_round(self) -> None:
        """End a round: merge its LoRA into the weights and start a fresh one in the same parameters.

        Raises :class:`ModelError` when the LoRA is not finite; the weights are then as they were.
        """
        adapter = self.adapter.detached_copy()
        if not all(tensor.isfinite().all() for tensor in adapter.tensors()):
            raise ModelError(
                f"the M-step of round {self.num_rounds} left NaN or infinite weights; they were not merged. Resume from "
                "the last checkpoint with a lower model.reinforce.learning_rate"
            )
        self.merged.append(adapter)
        self.go_to(len(self.merged))
        with torch.no_grad():
            for parameter, fresh in zip(self.lora, self._fresh().tensors(), strict=True):
                parameter.copy_(fresh)

    def go_to(self, num_rounds: int) -> None:
        """Become the policy after so many rounds, 0 ≤ num_rounds ≤ len(merged).

        Going back means loading the base again and replaying: subtracting an update is not exact.
        """
        if num_rounds < self.num_rounds:
            self._restore_base()
        for adapter in self.merged[self.num_rounds : num_rounds]:
            lora.merge(self.model, adapter)
        self.num_rounds = num_rounds

    def merged_states(self) -> list[LoraState]:
        """The merged LoRAs as plain tensors, for a checkpoint."""
        return [
            {
                f"{name}.{letter}": t
                for name, pair in adapter.weights.items()
                for letter, t in zip("AB", pair, strict=True)
            }
            for adapter in self.merged
        ]

    def load_merged_states(self, states: Sequence[LoraState]) -> None:
        """Become the policy whose merged LoRAs are these.

        Raises :class:`ModelError` when they are another model's, misshapen or not finite; nothing is changed then.
        """
        shapes = {
            f"{name}.{letter}": tuple(tensor.shape)
            for name, pair in self.adapter.weights.items()
            for letter, tensor in zip("AB", pair, strict=True)
        }
        adapters = []
        for state in states:
            _check_tensors(state, shapes)
            weights = {name: (state[f"{name}.A"], state[f"{name}.B"]) for name in self.module_names}
            adapters.append(LoraAdapter(spec=self.spec, weights=weights))
        self.go_to(0)
        self.merged = adapters
        self.go_to(len(adapters))

    def check_state(self, state: Mapping[str, Any], prefix: str) -> None:
        """Raise :class:`ModelError` unless a checkpoint's parameters are this policy's LoRA, and finite."""
        _check_tensors(state, {f"{prefix}lora.{i}": tuple(tensor.shape) for i, tensor in enumerate(self.lora)})

    def export(self, folder: Path, kind: Literal["adapter", "merged"]) -> None:
        """Write the policy as a standard folder: a PEFT adapter of the base model, or a full model.

        The adapter's update is the sum of all rounds', so its rank grows with the rounds. Raises what
        :meth:`check_export` does.
        """
        self.check_export(kind)
        if kind == "adapter":
            save_adapter(joined(self.merged), folder, base_model=self.pretrained.location())
            return
        config = self.model.generation_config
        self.model.generation_config = self.language_model.original_generation_config
        self.model.save_pretrained(folder)
        self.model.generation_config = config
        self.language_model.tokenizer.save_pretrained(folder)

    def check_export(self, kind: Literal["adapter", "merged"]) -> None:
        """Raise :class:`ConfigError` for a full model of a base in 4 bits: its rounds are not in its weights."""
        if kind == "merged" and is_quantized(self.model):
            raise ConfigError(
                "PolicyExport.kind: 'merged' is not allowed with a model in 4 bits, to whose weights nothing can be added; "
                "take 'adapter' (PEFT can merge it into the full base), or set model.pretrained.quantization to null"
            )

    def _fresh(self) -> LoraAdapter:
        """This round's LoRA as it starts, made from the seed and the round."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "policy", len(self.merged)))
        return init_adapter(self.model, self.spec, generator, self.module_names)

    @torch.no_grad()
    def _restore_base(self) -> None:
        lora.put_beside(self.model, {})
        added_to = [name for name in self.module_names if lora.takes_additions(self.model.get_submodule(name))]
        if added_to:
            base: LanguageModel = self.pretrained.load()
            for name in added_to:
                weight = self.model.get_submodule(name).weight
                weight.copy_(base.model.get_submodule(name).weight.to(weight.dtype))
        self.num_rounds = 0

    def _by_name(self, tensors: list[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return dict(zip(self.module_names, pairs, strict=True))


def _check_tensors(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not isinstance(state, Mapping) or state.keys() != shapes.keys():
        strange = sorted(set(state) ^ set(shapes))[:3] if isinstance(state, Mapping) else type(state).__name__
        raise ModelError(f"the checkpoint belongs to another model or policy_adapter; they differ in {shown(strange)}")
    for name, shape in shapes.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ModelError(
                f"the checkpoint belongs to another model or policy_adapter: {name} is {found}, expected {shape} "
                f"(model.policy_adapter.rank is {min(shape)})"
            )
        if not tensor.isfinite().all():
            raise ModelError(f"the checkpoint's {name} is NaN or infinite; take an older one")
