"""What a model says at anchored targets before it is adapted, computed once a text.

Shapes: A anchored targets, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seal_lightning.models.packed.forward import PackedForward
from seal_lightning.models.packed.rows import TokenizedSequence, grouped_within, pack


class UnadaptedStates:
    """Remembers, by sequence, the hidden states that enter the output head. Ask while no adapter is at work.

    Args:
        forward: of the model as it is before it is adapted.
        max_tokens: ≥ 1, of a pass.

    Raises :class:`ConfigError` where the model's output head is more than a linear layer.
    """

    def __init__(self, forward: PackedForward, max_tokens: int) -> None:
        forward.check_anchors()
        self.forward = forward
        self.max_tokens = max_tokens
        self._states: dict[TokenizedSequence, Tensor] = {}

    @torch.no_grad()
    def of(self, sequences: Sequence[TokenizedSequence]) -> Tensor:
        """[A, E], of the sequences' targets in their order."""
        missing = [sequence for sequence in dict.fromkeys(sequences) if sequence not in self._states]
        device = next(self.forward.model.parameters()).device
        for group in grouped_within(missing, self.max_tokens):
            states_AE = self.forward.hidden_states(pack(group, device))
            parts = torch.split(states_AE, [sequence.num_targets for sequence in group])
            self._states |= dict(zip(group, parts, strict=True))
        return torch.cat([self._states[sequence] for sequence in sequences])
