"""How the ranks of a group work on a model that none of them can hold: one computes, the others hand it the layers.

Every gathering of a layer is a collective, so ranks that each went their own way would wait for each other for ever. Were
they all to do the same instead, the last bit of a device, a judge's answer or the memory that is free could part them. So
only the group's first rank computes. Before it gathers a layer it says which, and the others gather that one and drop it.
All that decides how many passes there are happens in one process, as it does without sharding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from seal_lightning.core.errors import RankLost
from seal_lightning.distributed import interruption

T = TypeVar("T")

_DONE, _FAILED, _GATHER, _ALIVE = -1, -2, -3, -4
"""What the first rank says beside the number of a layer."""
_ALIVE_EVERY_S = 1.0


class Serving:
    """One group's ranks.

    Args:
        model: whose layers these are.
        layers: each sharded over the group.
        group: the ranks.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[FSDPModule], group: dist.ProcessGroup) -> None:
        self.model = model
        self.layers = layers
        self.group = group
        self.leads: bool = dist.get_rank(group) == 0
        self._leading = False
        self._said = time.monotonic()

    def led(self, work: Callable[[], T]) -> T | None:
        """The work's result on the first rank; None on the others, which meanwhile serve it.

        Raises what the work raises, on the first rank. Where it fails the others raise :class:`StopRequested` or
        :class:`RankLost`.
        """
        if self._leading:
            return work()
        if not self.leads:
            self._serve()
            return None
        said = _FAILED
        try:
            with self._announcing():
                result = work()
            said = _DONE
            return result
        except BaseException as error:
            interruption.fail(error)  # the others look for it as soon as they hear of it
            raise
        finally:
            for layer in self.layers:
                layer.reshard()  # one that a pass broke off at is still whole
            with suppress(RuntimeError) if said == _FAILED else nullcontext():  # the others may be what failed
                self._say(said)

    def announce_gather(self) -> None:
        """Have the others take part in a gathering of objects that follows."""
        if self._leading:
            self._say(_GATHER)

    def _serve(self) -> None:
        while True:
            said = self._hear()
            if said >= 0:
                self.layers[said].unshard()
                self.layers[said].reshard()
                interruption.called_off()  # a signal to this rank: the first one sees the note and ends
            elif said == _ALIVE:
                interruption.called_off()
            elif said == _GATHER:
                interruption.gather([])
            elif said == _DONE:
                return
            else:
                interruption.stop_together(True)
                raise RankLost("the rank that computes for this one's group has failed")

    def _say(self, what: int) -> None:
        self._said = time.monotonic()
        dist.broadcast(torch.tensor([what], device=self._device), group=self.group, group_src=0)

    def _say_alive(self) -> None:
        """Now and then, while this rank waits for a judge or for other groups: the others are in a collective."""
        if time.monotonic() - self._said >= _ALIVE_EVERY_S:
            self._say(_ALIVE)

    def _hear(self) -> int:
        heard = torch.empty(1, dtype=torch.long, device=self._device)
        dist.broadcast(heard, group=self.group, group_src=0)
        return int(heard.item())

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @contextmanager
    def _announcing(self) -> Iterator[None]:
        """Inside this block every gathering of a layer, forward or backward, is announced first."""
        handles = []
        for number, layer in enumerate(self.layers):
            module = cast(nn.Module, layer)
            gathered = _Gathered(self, number)
            # Before FSDP2's own hooks, which find the layer gathered and gather nothing.
            handles.append(module.register_forward_pre_hook(gathered.before_forward, prepend=True))
            handles.append(module.register_forward_hook(gathered.after_forward, prepend=True))
            layer.set_modules_to_backward_prefetch([layer])  # no other one: that would not be announced
        self._leading = True
        try:
            with interruption.checked_with(self._say_alive):
                yield
        finally:
            self._leading = False
            for handle in handles:
                handle.remove()
            prefetch_below(self.layers)

    def gather_layer(self, number: int) -> None:
        """Announce a layer and gather it, unless it is whole already."""
        layer = self.layers[number]
        if isinstance(next(cast(nn.Module, layer).parameters()), DTensor):
            self._say(number)
            layer.unshard()


class _Gathered:
    """The hooks of one layer."""

    def __init__(self, serving: Serving, number: int) -> None:
        self.serving = serving
        self.number = number

    def before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.serving.gather_layer(self.number)

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(self.before_backward)  # type: ignore[no-untyped-call]

    def before_backward(self, gradient: Tensor) -> None:
        self.serving.gather_layer(self.number)


def prefetch_below(layers: Sequence[FSDPModule]) -> None:
    """In the backward pass gather each layer's lower neighbour while it is computed.

    Left to itself FSDP2 takes what came before in any forward pass since the last backward one, exams without gradients
    among them: after an E-step of unlike work, ranks would gather different layers.
    """
    for below, layer in zip([layers[0], *layers], layers, strict=False):
        layer.set_modules_to_backward_prefetch([below])
