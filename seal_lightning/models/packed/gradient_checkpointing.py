"""Gradient checkpointing: a decoder layer keeps only its input, and is recomputed in the backward pass.

transformers' own switch works only in training mode, and ignores packed rows and the generators of adapters' dropout. Both
are restored here for the recomputation, which may run in a thread of autograd, with other context variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from seal_lightning.core.errors import ConfigError
from seal_lightning.models.packed.attention import packed_again

Forward = Callable[..., Any]


@contextmanager
def gradient_checkpointed(
    model: PreTrainedModel, generators: Sequence[torch.Generator] = (), *, enabled: bool = True
) -> Iterator[None]:
    """Keep only each decoder layer's input during forward passes in this block, and recompute the layer in backward.

    The backward pass must run while the hooks of the forward pass are still there: inside the block that routes or
    applies adapters.

    Args:
        model: the model whose decoder layers are recomputed.
        generators: generators that the layers draw from; the recomputation draws the same numbers again.
        enabled: False makes the block do nothing.

    Raises :class:`ConfigError` for a model without layers that transformers can checkpoint.
    """
    layers = recomputable_layers(model) if enabled else []
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = partial(_checkpointed_forward, layer.forward, model, generators)
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = forward


def recomputable_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers that can be recomputed. Raises :class:`ConfigError` where a model has none."""
    layers: list[nn.Module] = [
        module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ConfigError(
            f"gradient_checkpointing: true is not allowed for a {type(model).__name__}: transformers cannot "
            "checkpoint its layers. Set it to false, and lower max_tokens_per_pass if memory is short"
        )
    return layers


def _checkpointed_forward(
    forward: Forward, model: PreTrainedModel, generators: Sequence[torch.Generator], *args: Any, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # The model is in evaluation mode, so only the adapters' dropout draws random numbers.
    return checkpoint(
        partial(forward, **kwargs),
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _Recomputation(model, generators)),
    )


class _Recomputation:
    """A ``with`` block that restores the packed layout and the generators of a layer's forward pass."""

    def __init__(self, model: PreTrainedModel, generators: Sequence[torch.Generator]) -> None:
        self._packed = packed_again(model)
        self._generators = generators
        self._states = [generator.get_state() for generator in generators]

    def __enter__(self) -> None:
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)
        self._block = self._packed()
        self._block.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._block.__exit__(None, None, None)
