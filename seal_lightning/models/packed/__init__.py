"""Forward passes over packed rows: many sequences in one row without pads, which do not attend to each other."""

from seal_lightning.models.packed.forward import Anchored, PackedForward, PackedLoss
from seal_lightning.models.packed.gradient_checkpointing import gradient_checkpointed
from seal_lightning.models.packed.rows import PackedRow, TokenizedSequence, pack, pack_within
from seal_lightning.models.packed.state_caches import LowerLayers, UnadaptedStates

__all__ = [
    "Anchored",
    "LowerLayers",
    "PackedForward",
    "PackedLoss",
    "PackedRow",
    "TokenizedSequence",
    "UnadaptedStates",
    "gradient_checkpointed",
    "pack",
    "pack_within",
]
