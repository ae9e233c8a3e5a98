"""A policy whose M-steps train all weights; each round's policy is kept as a standard folder of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seal_lightning.core.errors import ConfigError, ModelError, RunError, shown
from seal_lightning.distributed.coordination import gather_objects
from seal_lightning.distributed.sharded_layers import decoder_layers
from seal_lightning.distributed.tensor_shards import here, rows_here
from seal_lightning.models.packed import PackedRow
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.models.quantization import is_quantized
from seal_lightning.storage.atomic_files import placing_folder
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.policy import Policy

_WEIGHTS = "policy.weights."


class FullPolicy(Policy):
    """LM_θ without a LoRA. A finished round is the folder ``round_{r}/policy`` of the run.

    A checkpoint holds weights within an M-step only; between M-steps they are those of the last folder.

    Raises :class:`ConfigError` for 16-bit and for quantised weights.
    """

    def __init__(self, pretrained: Pretrained, seed: int, *, together: bool = False) -> None:
        nn.Module.__init__(self)
        if pretrained.dtype in ("bfloat16", "float16"):
            raise ConfigError(
                f"model.pretrained.dtype: {pretrained.dtype} is not allowed with model.policy_adapter: null: such weights "
                "lose small updates. Set float32; layers may compute in less (trainer.strategy."
                "compute_dtype of configs/trainer/fsdp.yaml)"
            )
        self._load(pretrained, seed, together=together)
        if is_quantized(self.model):
            raise ConfigError(
                "model.policy_adapter: null is not allowed with quantised weights: their codes cannot be trained. Set "
                "model.pretrained.quantization to null, take a checkpoint that is not quantised, or train a LoRA"
            )
        self.folders: list[Path] = []
        """The folder of each finished round."""
        self._between_rounds = True

    @property
    def num_finished(self) -> int:
        """The number of finished rounds."""
        return len(self.folders)

    def trained(self) -> list[list[nn.Parameter]]:
        """Return the weights that an M-step trains: those that can be sharded, and the others."""
        of_layers = {parameter for layer in decoder_layers(self.model) for parameter in layer.parameters()}
        both: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in self.model.parameters():
            both[parameter not in of_layers].append(parameter)
        return list(both)

    def learning(self) -> AbstractContextManager[None]:
        """Return an empty context: nothing is added to the model."""
        return nullcontext()

    def loss(self, row: PackedRow) -> Tensor:
        """Return the sum of a row's losses, []; its gradient reaches all weights, the output head's too."""
        return self.language_model.packed.loss_with_trained_head(row)

    def train_together(self) -> None:
        """Prepare for the M-step: all weights get gradients."""
        super().train_together()
        self.language_model.merged = None  # from now on the weights are not a sum of LoRAs
        if not self.model.get_input_embeddings().weight.requires_grad:
            self.model.requires_grad_(True)
            if self.sharded is not None:
                self.sharded.settle_gradients()
        self._between_rounds = False

    def compute(self) -> None:
        """Prepare for anything but an M-step: freeze the weights."""
        if self.model.get_input_embeddings().weight.requires_grad:
            self.model.requires_grad_(False)
        super().compute()

    def joined_rank(self, num_rounds: int) -> int:
        """Return 0: rounds are whole weights."""
        return 0

    def merge_round(self) -> None:
        """End a round: write its weights to the run's folder. A collective where they are sharded.

        Raises :class:`ModelError` where they are not finite.
        """
        finite = all(bool(here(parameter).isfinite().all()) for parameter in self.model.parameters())
        if not all(gather_objects([finite])):
            raise ModelError(
                f"the M-step of round {self.num_finished} left NaN or infinite weights; they were not kept. Resume from "
                "the last checkpoint with a lower model.reinforce.learning_rate"
            )
        first = not dist.is_initialized() or dist.get_rank() == 0
        weights = self.whole_weights(keep=first)
        kept = self._folder(self.num_finished)
        if first:
            with placing_folder(kept) as folder:
                self.export(folder, "merged", weights)
        gather_objects([None])  # a barrier: the folder exists when the others continue
        self.folders.append(kept)
        self.num_rounds = self.num_finished
        self._between_rounds = True

    @torch.no_grad()
    def go_to(self, num_rounds: int) -> None:
        """Become the policy after so many rounds: the pretrained one, or that of a folder."""
        if num_rounds == self.num_rounds and self._between_rounds:
            return
        source = self.pretrained
        if num_rounds > 0:
            source = replace(source, source=str(self.folders[num_rounds - 1]), revision=None)
        self._write(dict(source.load().model.named_parameters()))
        self.language_model.merged = () if num_rounds == 0 else None
        self.num_rounds, self._between_rounds = num_rounds, True

    def merged_states(self) -> list[dict[str, Any]]:
        """Return the folder of each finished round."""
        return [{"folder": str(folder)} for folder in self.folders]

    def load_merged_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the policy after these rounds.

        Raises :class:`ModelError` for rounds of a policy with LoRAs, and for a missing folder.
        """
        if any(set(state) != {"folder"} for state in states):
            raise ModelError("the checkpoint belongs to a policy with a LoRA; set model.policy_adapter to that LoRA")
        folders = [self._found(Path(state["folder"]), index) for index, state in enumerate(states)]
        if folders != self.folders:
            self._between_rounds = False  # other weights, even of as many rounds
        self.folders = folders
        self.go_to(len(states))

    def _found(self, folder: Path, round_index: int) -> Path:
        """Return the folder of a round, as stored or in this run's directory, which may have been moved."""
        for place in (folder, *([] if self.run_dir is None else [self._folder(round_index)])):
            if place.is_absolute() and place.is_dir():
                return place
        raise ModelError(
            f"the policy of round {round_index} is not in {folder}, where the run wrote it; restore the folder"
        )

    def checkpointed_state(self) -> dict[str, Any]:
        """Return the weights within an M-step on the first rank, else nothing. A collective where they are sharded."""
        if self._between_rounds:
            return {}
        first = not dist.is_initialized() or dist.get_rank() == 0
        return {f"{_WEIGHTS}{name}": tensor for name, tensor in self.whole_weights(keep=first).items()}

    def check_state(self, state: Mapping[str, Any], prefix: str) -> None:
        """Raise :class:`ModelError` unless a checkpoint's weights, if it has any, are this model's and finite."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.model.named_parameters()}
        found = {name.removeprefix(f"{prefix}weights."): tensor for name, tensor in state.items()}
        if found and (missing := sorted(shapes.keys() - found.keys())[:3]):
            raise ModelError(
                f"the checkpoint belongs to another model or to a policy with a LoRA: {shown(missing)} are missing"
            )
        for name, shape in shapes.items() if found else ():
            tensor = found[name]
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape or not tensor.isfinite().all():
                raise ModelError(f"the checkpoint's {name} is not {shape} finite numbers; take an older one")

    def load_checkpointed_state(self, state: Mapping[str, Any], *, fitting: bool) -> dict[str, Any]:
        """Load the weights of an interrupted M-step where a fit resumes; return nothing for Lightning to load."""
        if fitting and state:
            self._write({name.removeprefix(_WEIGHTS): tensor for name, tensor in state.items()})
            self.language_model.merged = None
            self._between_rounds = False
        return {}

    def export(self, folder: Path, kind: Literal["adapter", "merged"], weights: Mapping[str, Tensor]) -> None:
        """Write the weights as a standard folder for either kind: there is no adapter."""
        super().export(folder, "merged", weights)

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        with self._weights_open():
            for name, parameter in self.model.named_parameters():
                here(parameter).copy_(rows_here(weights[name], parameter))

    def _folder(self, round_index: int) -> Path:
        if self.run_dir is None:
            raise RunError("a policy without a LoRA keeps its rounds in a run directory; set one (--run_dir)")
        return (RunDir(self.run_dir).round(round_index) / "policy").absolute()
