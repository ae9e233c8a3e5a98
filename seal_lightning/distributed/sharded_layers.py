"""A model whose layers are spread over ranks (FSDP2), and the three ways in which its ranks then work.

* **in training** (the M-step): every rank computes rows of its own; layers are gathered for each pass, gradients averaged.
* **on whole replicas** (everything else, where the weights fit one device): each layer is gathered once and kept, so that
  no pass communicates and ranks need not do the same.
* **led** (everything else, where they do not fit): the first rank of a group computes, the others hand it their part of
  one layer after another, in lock-step (:mod:`seal_lightning.distributed.leader`).

The units are the decoder's layers. Embeddings, the last norm and the output head stay whole on every rank: heads may be
tied, and the packed loss multiplies by the head outside any module. LoRA tensors are plain and on every rank too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

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
from seal_lightning.distributed.leader import Serving, prefetch_below
from seal_lightning.distributed.tensor_shards import here

T = TypeVar("T")

WHOLE_FRACTION = 0.5
"""Of a device's memory: weights that take no more are kept whole outside the M-step. The rest is for the shards that stay
beside them, the inner loop's adapters and activations, and the engine's keys and values."""


@dataclass(frozen=True, kw_only=True)
class ShardingOptions:
    """How a model is spread over ranks; see ``configs/trainer/fsdp.yaml``."""

    whole_replicas: Literal["auto", "always", "never"] = "auto"
    """Whether the E-step, validation and tests gather all weights on each rank; ``auto``: where they take no more than
    :data:`WHOLE_FRACTION` of its memory."""
    cpu_offload: bool = False
    """Whether the shards are in the host's memory."""
    compute_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """What layers are gathered in and compute in; None is the type of the weights."""


class ShardedModel:
    """A model spread over the ranks of a mesh.

    Args:
        model: whole, on any device; its layers' weights are replaced by shards.
        mesh: [groups, ranks of a group]; each group holds a whole copy of the layers.
        options: how.
    """

    def __init__(self, model: PreTrainedModel, mesh: DeviceMesh, options: ShardingOptions) -> None:
        self.model = model
        self.mesh = mesh
        self.options = options
        self.layers = cast("list[FSDPModule]", list(decoder_layers(model)))
        self.whole_replicas = whole_replicas(options, weight_bytes(model, options), mesh.device_type)
        self._shard()
        self._gathered = False
        self._serving = Serving(model, self.layers, mesh.get_group(1))
        self.group_index: int = mesh.get_local_rank(0)
        self.num_groups: int = mesh.size(0)

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
        prefetch_below(self.layers)
        decoder = self.model.get_decoder()
        rest = {parameter for parameter in decoder.parameters() if not isinstance(parameter, DTensor)}
        fully_shard(decoder, ignored_params=rest, **policies)  # the layers' root, with no weights of its own

    @property
    def computes(self) -> bool:
        """Whether this rank works outside the M-step; others only hand over weights."""
        return self.whole_replicas or self._serving.leads

    # --- ways of working

    def train(self) -> None:
        """Be as the M-step needs it. All ranks call it, at the same point."""
        if self._gathered:
            for layer in self.layers:
                layer.set_reshard_after_forward(True, recurse=False)  # before: FSDP2 keeps what it was told to keep
                layer.set_reshard_after_backward(True, recurse=False)
                layer.reshard()
            self._gathered = False

    def settle_gradients(self) -> None:
        """After weights were frozen or not. All ranks call it, at the same point, in training.

        FSDP2 chooses the type in which gradients are reduced whenever it is told to gather, by the weights that take some
        then; where none did, it would be the wrong one.
        """
        for layer in self.layers:
            layer.unshard()
            layer.reshard()

    def compute(self) -> None:
        """Be as the E-step, validation and tests need it. All ranks call it, at the same point."""
        if self.whole_replicas and not self._gathered:
            for layer in self.layers:
                layer.unshard()
                layer.set_reshard_after_forward(False, recurse=False)
                layer.set_reshard_after_backward(False, recurse=False)
            self._gathered = True

    def led(self, work: Callable[[], T]) -> T | None:
        """Do the work on ranks that compute; others return None when it is done. No other rank is waited for on replicas.

        Raises what the work raises, and on the others :class:`RankLost` or :class:`StopRequested`.
        """
        return work() if self.whole_replicas else self._serving.led(work)

    def gather(self, local: list[T]) -> list[T]:
        """As :func:`interruption.gather`, within :meth:`led`: ranks that only hand over weights take part with nothing."""
        if not self.whole_replicas:
            self._serving.announce_gather()
        return interruption.gather(local)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside this block the weights are shards, to be changed or exported. All ranks enter it, at the same point."""
        gathered = self._gathered
        if gathered:
            interruption.gather([])  # ranks that work at their own pace meet where a stop is heard
        self.train()
        try:
            yield
        finally:
            if gathered:
                self.compute()

    # --- the M-step

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The mean over all ranks of the gradients of parameters that are not sharded (FSDP2 sees to the others).

        One all-reduce a type of gradient.
        """
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                of_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in of_type.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients so that their norm over all parameters is ``max_norm`` at most; returns it as it was.

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
    """The list of a model's decoder layers. Raises :class:`ConfigError` where there is none to be found."""
    number = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ConfigError(
        f"model.pretrained: {type(model).__name__} has no list of its {number} layers, so it cannot be sharded; use "
        "configs/trainer/ddp.yaml, or another model"
    )


def weight_bytes(model: PreTrainedModel, options: ShardingOptions) -> int:
    """Of a whole model as it computes."""
    computing = None if options.compute_dtype is None else getattr(torch, options.compute_dtype).itemsize
    of_layers = {parameter for layer in decoder_layers(model) for parameter in layer.parameters()}
    return sum(p.numel() * (computing if computing and p in of_layers else p.itemsize) for p in model.parameters())


def whole_replicas(options: ShardingOptions, num_bytes: int, device_type: str) -> bool:
    """Whether whole weights of so many bytes are kept on each rank: on all of them, or on none. A collective."""
    if options.whole_replicas != "auto":
        return options.whole_replicas == "always"
    fits = torch.tensor(int(num_bytes <= WHOLE_FRACTION * memory_bytes(device_type)), device=device_type)
    dist.all_reduce(fits, op=dist.ReduceOp.MIN)
    return bool(fits.item())


def memory_bytes(device_type: str) -> int:
    """Of this rank's device; a host's is shared by its ranks."""
    if device_type == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
