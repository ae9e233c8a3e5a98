"""The policy: a frozen base, the LoRA of each past round merged into it, and the LoRA that this round's M-step trains.

A 4-bit base is not changed: past rounds' updates are kept unmerged beside it, so that each is exact.
A checkpoint holds the LoRAs, not the base: replaying the merges on the pretrained weights gives the policy of any round,
bit for bit on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, ModelError, shown
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed.sharded_layers import ShardedModel, ShardingOptions
from seal_lightning.distributed.tensor_shards import here, rows_here, whole
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import (
    LoraAdapter,
    applied,
    attach_unmerged,
    has_float_weight,
    init_adapter,
    save_adapter,
    sum_adapters,
    target_modules,
)
from seal_lightning.models.packed import PackedRow
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.models.quantization import is_quantized
from seal_lightning.storage.atomic_files import safetensors_refusals

LoraState = dict[str, Tensor]


class Policy(nn.Module):
    """LM_θ. Its only trainable parameters are the current round's LoRA; the same parameter objects serve every round."""

    def __init__(self, pretrained: Pretrained, spec: AdapterSpec, seed: int, *, together: bool = False) -> None:
        super().__init__()
        self._load(pretrained, seed, together=together)
        self.spec = spec
        self.module_names = target_modules(self.model, spec)
        self.merged: list[LoraAdapter] = []
        """The LoRA of each finished round."""
        self.lora = nn.ParameterList([nn.Parameter(tensor) for tensor in self._fresh().tensors()])

    def _load(self, pretrained: Pretrained, seed: int, *, together: bool) -> None:
        self.pretrained = pretrained
        self.seed = seed
        self.language_model = pretrained.load(together=together)
        self.model = self.language_model.model
        self.num_rounds = 0
        """Finished rounds in the weights: all, except while an earlier policy is tested."""
        self.sharded: ShardedModel | None = None
        self.run_dir: Path | None = None
        """The run directory."""

    @property
    def num_finished(self) -> int:
        """The number of finished rounds."""
        return len(self.merged)

    def trained(self) -> list[list[nn.Parameter]]:
        """Return the parameters that an M-step trains, in groups that an optimiser may step together."""
        return [list(self.lora)]

    def learning(self) -> AbstractContextManager[None]:
        """Apply the trained LoRA to the model inside this block."""
        return applied(self.model, self.adapter)

    def loss(self, row: PackedRow) -> Tensor:
        """Return the sum of a row's losses, []; its gradient reaches the trained parameters."""
        return self.language_model.packed(row).total

    def checkpointed_state(self) -> dict[str, Any]:
        """Return the state of an unfinished M-step for a checkpoint, by parameter of the module that has this policy."""
        return {f"policy.lora.{i}": tensor.detach() for i, tensor in enumerate(self.lora)}

    def load_checkpointed_state(self, state: Mapping[str, Any], *, fitting: bool) -> dict[str, Any]:
        """Load a checked state where a fit resumes; return the part that Lightning loads."""
        return dict(state)

    def shard(self, mesh: DeviceMesh, options: ShardingOptions) -> None:
        """Shard the weights over the ranks of a mesh [groups, ranks of a group]; the LoRAs stay on every rank."""
        self.sharded = ShardedModel(self.model, mesh, options)

    def train_together(self) -> None:
        """Prepare for the M-step. All ranks call it at the same point, as they do :meth:`compute`."""
        if self.sharded is not None:
            self.sharded.train()
            _ = self.language_model.packed  # checks the model once, in passes that are collectives

    def compute(self) -> None:
        """Prepare for anything but an M-step."""
        if self.sharded is not None:
            _ = self.language_model.packed
            self.sharded.compute()

    @property
    def adapter(self) -> LoraAdapter:
        """This round's LoRA; before its first M-step its update is zero."""
        return LoraAdapter(spec=self.spec, weights=self._by_name(list(self.lora)))

    def joined_rank(self, num_rounds: int) -> int:
        """Return the rank of the sum of so many rounds' LoRAs; 0 for a policy without LoRAs."""
        return num_rounds * self.spec.rank

    def merge_round(self) -> None:
        """End a round: merge its LoRA into the weights and reset the parameters to a fresh one.

        Raises :class:`ModelError` where the LoRA is not finite; the weights are then unchanged.
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

        Going back loads the base again and replays the merges, because subtracting an update is not exact.
        """
        if num_rounds == self.num_rounds:
            return
        with self._weights_open():
            if num_rounds < self.num_rounds:
                self._restore_base()
            for adapter in self.merged[self.num_rounds : num_rounds]:
                self.language_model.merge(adapter)
        self.num_rounds = num_rounds

    def _weights_open(self) -> AbstractContextManager[None]:
        return nullcontext() if self.sharded is None else self.sharded.opened()

    def merged_states(self) -> list[dict[str, Any]]:
        """Return the merged LoRAs as plain tensors, for a checkpoint."""
        return [
            {
                f"{name}.{letter}": t
                for name, pair in adapter.weights.items()
                for letter, t in zip("AB", pair, strict=True)
            }
            for adapter in self.merged
        ]

    def load_merged_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the policy with these merged LoRAs.

        Raises :class:`ModelError` where they are another model's, of other shapes or not finite; nothing changes then.
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

    def whole_weights(self, *, keep: bool) -> dict[str, Tensor]:
        """Return the merged weights by name, for :meth:`export`. A collective where they are sharded.

        They are gathered one by one; a rank without ``keep`` drops each again.
        """
        if self.sharded is None:
            return dict(self.model.state_dict()) if keep else {}
        with self._weights_open():
            buffers = self.model.state_dict().keys() - dict(self.model.named_parameters(remove_duplicate=False)).keys()
            kept = {name: self.model.get_buffer(name).cpu() for name in buffers}
            for name, parameter in self.model.named_parameters():
                weight = whole(parameter)
                if keep:
                    kept[name] = weight.cpu()
        return kept if keep else {}

    def export(self, folder: Path, kind: Literal["adapter", "merged"], weights: Mapping[str, Tensor]) -> None:
        """Write the policy as a standard folder: a PEFT adapter of the base model, or a full model of the given weights.

        The adapter's update is the sum of all rounds', so its rank grows with the rounds. Raises as
        :meth:`check_export`.
        """
        self.check_export(kind)
        if kind == "adapter":
            save_adapter(sum_adapters(self.merged), folder, base_model=self.pretrained.location())
            return
        config = self.model.generation_config
        self.model.generation_config = self.language_model.original_generation_config
        with safetensors_refusals():
            self.model.save_pretrained(folder, state_dict=dict(weights))
        self.model.generation_config = config
        self.language_model.tokenizer.save_pretrained(folder)

    def check_export(self, kind: Literal["adapter", "merged"]) -> None:
        """Raise :class:`ConfigError` for a full model of a 4-bit base: its rounds are not in its weights."""
        if kind == "merged" and is_quantized(self.model):
            raise ConfigError(
                "PolicyExport.kind: 'merged' is not allowed with a 4-bit model, whose weights cannot take an update; "
                "use 'adapter' (PEFT can merge it into the full base), or set model.pretrained.quantization to null"
            )

    def _fresh(self) -> LoraAdapter:
        """Return this round's LoRA at its start, made from the seed and the round."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "policy", len(self.merged)))
        return init_adapter(self.model, self.spec, generator, self.module_names)

    @torch.no_grad()
    def _restore_base(self) -> None:
        attach_unmerged(self.model, {})
        added_to = [name for name in self.module_names if has_float_weight(self.model.get_submodule(name))]
        if added_to:
            base: LanguageModel = self.pretrained.load()
            for name in added_to:
                weight = self.model.get_submodule(name).weight
                here(weight).copy_(rows_here(base.model.get_submodule(name).weight, weight))
        self.language_model.merged = ()
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
