"""Forward passes over packed rows: many sequences in one row without pads, each blind to its neighbours."""

from seal_lightning.models.packed.forward import Anchored, PackedForward, PackedLoss
from seal_lightning.models.packed.gradient_checkpointing import checkpointed, checkpointed_if
from seal_lightning.models.packed.lower_layers import LowerLayers
from seal_lightning.models.packed.rows import PackedRow, TokenizedSequence, pack, pack_within
from seal_lightning.models.packed.unadapted_states import UnadaptedStates

__all__ = [
    "Anchored",
    "LowerLayers",
    "PackedForward",
    "PackedLoss",
    "PackedRow",
    "TokenizedSequence",
    "UnadaptedStates",
    "checkpointed",
    "checkpointed_if",
    "pack",
    "pack_within",
]
