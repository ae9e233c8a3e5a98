"""Forward passes over packed rows: many sequences in one row without pads, each blind to its neighbours."""

from seal_lightning.packed.forward import PackedForward, PackedLoss
from seal_lightning.packed.lower_layers import LowerLayers
from seal_lightning.packed.rows import PackedRow, TokenizedSequence, pack, pack_within

__all__ = ["LowerLayers", "PackedForward", "PackedLoss", "PackedRow", "TokenizedSequence", "pack", "pack_within"]
