"""Hidden states that are computed once per text: below the first adapted layer, and of anchored targets.

Shapes: T packed tokens, A anchored targets, E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seal_lightning.models.packed.attention import packed_attention
from seal_lightning.models.packed.forward import PackedForward, agree, probe_sequences
from seal_lightning.models.packed.rows import TokenizedSequence, group_by_tokens, pack


class UnadaptedStates:
    """Caches, per sequence, the hidden states that enter the output head. Call it while no adapter is applied.

    Args:
        forward: of the model before adaptation.
        max_tokens: ≥ 1, tokens of a pass.

    Raises :class:`ConfigError` where the model's output head is more than a linear layer.
    """

    def __init__(self, forward: PackedForward, max_tokens: int) -> None:
        forward.check_anchors()
        self.forward = forward
        self.max_tokens = max_tokens
        self._states: dict[TokenizedSequence, Tensor] = {}

    @torch.no_grad()
    def states(self, sequences: Sequence[TokenizedSequence]) -> Tensor:
        """Return [A, E], of the sequences' targets in their order."""
        missing = [sequence for sequence in dict.fromkeys(sequences) if sequence not in self._states]
        device = next(self.forward.model.parameters()).device
        for group in group_by_tokens(missing, self.max_tokens):
            states_AE = self.forward.hidden_states(pack(group, device))
            parts = torch.split(states_AE, [sequence.num_targets for sequence in group])
            self._states |= dict(zip(group, parts, strict=True))
        return torch.cat([self._states[sequence] for sequence in sequences])


class _ReachedError(Exception):
    """Ends a pass at the first adapted layer."""


class LowerLayers:
    """Caches, per sequence, the hidden states that enter layer ``first``.

    Layers below the first adapted one give the same for a sequence in every epoch and for every adapter. With adapters on the
    upper third of the layers, they are most of a training step's forward pass.

    Args:
        forward: of the model whose layers these are.
        layers: the name of its list of layers.
        first: ≥ 1, index of the first layer that has an adapter.
    """

    def __init__(self, forward: PackedForward, layers: str, first: int) -> None:
        self.forward = forward
        self.model = forward.model
        self.layers: Any = self.model.get_submodule(layers)
        self.first = first
        self._entering: dict[tuple[int, ...], Tensor] = {}
        self._returns_tuple = False

    @contextmanager
    def skipped(self, sequences: Sequence[TokenizedSequence]) -> Iterator[None]:
        """Let a pass over these sequences, packed, start at layer ``first`` inside this block."""
        hidden_TE = self._entering_states(sequences)
        lower = [self.layers[i] for i in range(self.first)]

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if args:
                return (hidden_TE[None], *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": hidden_TE[None]}

        handle = self.layers[self.first].register_forward_pre_hook(enter, with_kwargs=True)
        own = [layer.__dict__.get("forward") for layer in lower]
        try:
            for layer in lower:
                layer.forward = self._pass_through
            yield
        finally:
            handle.remove()
            for layer, forward in zip(lower, own, strict=True):
                if forward is None:
                    del layer.forward
                else:
                    layer.forward = forward

    def _pass_through(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if self._returns_tuple else hidden_states

    def _entering_states(self, sequences: Sequence[TokenizedSequence]) -> Tensor:
        """Return [T, E]; states that are not cached are computed in one pass over the lower layers."""
        missing = [s for s in dict.fromkeys(sequences) if s.token_ids not in self._entering]
        if missing:
            parts = torch.split(self._compute(missing), [len(s.token_ids) for s in missing])
            self._entering |= {s.token_ids: part for s, part in zip(missing, parts, strict=True)}
        return torch.cat([self._entering[s.token_ids] for s in sequences])

    @torch.no_grad()
    def _compute(self, sequences: Sequence[TokenizedSequence]) -> Tensor:
        row = pack(sequences, next(self.model.parameters()).device)
        found: list[Tensor] = []

        def reached(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedError

        def note_type(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._returns_tuple = isinstance(output, tuple)

        handles = [
            self.layers[self.first].register_forward_pre_hook(reached, with_kwargs=True),
            self.layers[self.first - 1].register_forward_hook(note_type),
        ]
        decoder: Any = self.model.get_decoder()
        try:
            with packed_attention(self.model, row.lengths, row.token_ids.device):
                decoder(input_ids=row.token_ids, position_ids=row.position_ids, use_cache=False)
        except _ReachedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found[0][0]

    @torch.no_grad()
    def can_be_skipped(self) -> bool:
        """Return whether skipping changes nothing on a probe; it does where layers share more than hidden states."""
        sequences = probe_sequences(self.model)
        row = pack(sequences, next(self.model.parameters()).device)
        expected = self.forward(row).losses
        with self.skipped(sequences):
            return agree(self.forward(row).losses, expected, self.model)
