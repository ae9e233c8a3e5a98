"""A model whose decoder layers are spread over ranks (FSDP2), and the two ways in which its ranks then work.

* **M-step**: every rank computes rows of its own; layers are gathered for each pass, gradients averaged.
* **Everything else**, where the weights fit one device: each layer is gathered once and kept (a whole replica), so that
  no pass communicates and ranks need not do the same.

The units are the decoder's layers. Embeddings, the last norm and the output head stay whole on every rank: heads may be
tied, and the packed loss multiplies by the head outside any module. LoRA tensors are plain and on every rank too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from seal_lightning.core.errors import ConfigError
from seal_lightning.distributed import interruption
from seal_lightning.distributed.tensor_shards import here

WHOLE_FRACTION = 0.5
"""Of a device's memory: weights that take no more are kept whole outside the M-step. The rest is for the shards that stay
beside them, the inner loop's adapters and activations, and the engine's keys and values."""


@dataclass(frozen=True, kw_only=True)
class ShardingOptions:
    """Options for spreading a model over ranks; see ``configs/trainer/fsdp.yaml``."""

    whole_replicas: Literal["auto", "always", "never"] = "auto"
    """Gather all weights on each rank for the E-step, validation and tests; ``auto``: where they take no more than
    :data:`WHOLE_FRACTION` of its memory."""
    cpu_offload: bool = False
    """Keep the shards in the host's memory."""
    compute_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Type in which layers are gathered and compute; None is the type of the weights."""


class ShardedModel:
    """A model spread over the ranks of a mesh.

    Args:
        model: whole, on any device; its layers' weights are replaced by shards.
        mesh: [groups, ranks of a group]; each group holds a whole copy of the layers.
        options: see :class:`ShardingOptions`.
    """

    def __init__(self, model: PreTrainedModel, mesh: DeviceMesh, options: ShardingOptions) -> None:
        self.model = model
        self.mesh = mesh
        self.options = options
        self.layers = cast("list[FSDPModule]", list(decoder_layers(model)))
        self.num_bytes = weight_bytes(model, options)
        self.whole_replicas = whole_replicas(options, self.num_bytes, mesh.device_type)
        self._shard()
        self._gathered = False
        self._training = True

    def _shard(self) -> None:
        options = self.options
        dtype = None if options.compute_dtype is None else getattr(torch, options.compute_dtype)
        pinned = self.mesh.device_type != "cpu"
        policies: dict[str, Any] = {
            "mesh": self.mesh if self.mesh.size(0) > 1 else self.mesh[self.mesh.mesh_dim_names[1]],  # type: ignore[index]
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype else None),
            "offload_policy": CPUOffloadPolicy(pin_memory=pinned) if options.cpu_offload else OffloadPolicy(),
            "reshard_after_forward": True,
        }
        for layer in self.layers:
            fully_shard(cast(nn.Module, layer), **policies)
            cast(nn.Module, layer).register_forward_pre_hook(self._check_pass, prepend=True)
        # Left to itself FSDP2 prefetches what came before in any forward pass since the last backward one, exams without
        # gradients among them: after an E-step of unlike work, ranks would gather different layers.
        for below, layer in zip([self.layers[0], *self.layers], self.layers, strict=False):
            layer.set_modules_to_backward_prefetch([below])
        decoder = self.model.get_decoder()
        rest = {parameter for parameter in decoder.parameters() if not isinstance(parameter, DTensor)}
        fully_shard(decoder, ignored_params=rest, **policies)  # the layers' root, with no weights of its own

    def _check_pass(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Raise :class:`ConfigError` for a pass in which other ranks may not take part: they would wait for ever."""
        if not self._training and not self._gathered:
            raise ConfigError(
                "trainer.strategy.whole_replicas: the policy's layers are spread over ranks, so only the M-step can compute "
                "on them. Constrained decoding and choice scores need whole replicas"
            )

    def train(self) -> None:
        """Prepare for the M-step. All ranks call it, at the same point."""
        self._training = True
        if self._gathered:
            for layer in self.layers:
                layer.set_reshard_after_forward(True, recurse=False)  # first: FSDP2 obeys it in the next line
                layer.set_reshard_after_backward(True, recurse=False)
                layer.reshard()
            self._gathered = False

    def settle_gradients(self) -> None:
        """Apply a change of ``requires_grad``. All ranks call it, at the same point, in training.

        FSDP2 chooses the type in which gradients are reduced whenever it gathers, by the weights that require some then;
        where none did, it would be the wrong one.
        """
        for layer in self.layers:
            layer.unshard()
            layer.reshard()

    def compute(self) -> None:
        """Prepare for the E-step, validation and tests. All ranks call it, at the same point."""
        self._training = False
        if self.whole_replicas and not self._gathered:
            for layer in self.layers:
                layer.unshard()
                layer.set_reshard_after_forward(False, recurse=False)
                layer.set_reshard_after_backward(False, recurse=False)
            self._gathered = True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the weights shards within this block, to be changed or exported. All ranks enter it, at the same point."""
        computing = not self._training
        if self._gathered:
            interruption.gather([])  # ranks that work at their own pace meet here, where a stop reaches them
        self.train()
        try:
            yield
        finally:
            if computing:
                self.compute()

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average over all ranks the gradients of parameters that are not sharded (FSDP2 averages the others).

        One all-reduce per type of gradient.
        """
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                of_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in of_type.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])  # [numbers of all of them]
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm over all parameters is at most ``max_norm``; return the norm before.

    A collective where some are sharded.
    """
    sharded = [p.grad for p in parameters if isinstance(p.grad, DTensor)]
    if not sharded:
        return torch.nn.utils.clip_grad_norm_(list(parameters), max_norm)
    rest = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    mesh = sharded[0].device_mesh
    square = torch.stack([here(gradient).double().square().sum() for gradient in sharded]).sum().to(rest[0].device)
    dist.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
    for gradient in rest:
        square = square + gradient.double().square().sum()
    norm = square.sqrt()
    factor = float((max_norm / (norm + 1e-6)).clamp(max=1.0))
    for gradient in (*sharded, *rest):
        here(gradient).mul_(factor)
    return norm


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return a model's list of decoder layers. Raises :class:`ConfigError` where there is none."""
    number = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ConfigError(
        f"model.pretrained: {type(model).__name__} has no list of its {number} layers, so it cannot be sharded; use "
        "configs/trainer/ddp.yaml, or another model"
    )


def weight_bytes(model: PreTrainedModel, options: ShardingOptions) -> int:
    """Return the bytes of a whole model's weights in the type in which it computes."""
    computing = None if options.compute_dtype is None else getattr(torch, options.compute_dtype).itemsize
    of_layers = {parameter for layer in decoder_layers(model) for parameter in layer.parameters()}
    return sum(p.numel() * (computing if computing and p in of_layers else p.itemsize) for p in model.parameters())


def whole_replicas(options: ShardingOptions, num_bytes: int, device_type: str) -> bool:
    """Decide, for all ranks alike, if whole weights of so many bytes are kept on each of them. A collective."""
    if options.whole_replicas != "auto":
        return options.whole_replicas == "always"
    fits = torch.tensor(int(num_bytes <= WHOLE_FRACTION * memory_bytes(device_type)), device=device_type)
    dist.all_reduce(fits, op=dist.ReduceOp.MIN)
    return bool(fits.item())


def memory_bytes(device_type: str) -> int:
    """Return the bytes of this rank's device, or its share of the host's memory."""
    if device_type == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
