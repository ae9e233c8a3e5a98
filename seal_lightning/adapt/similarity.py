"""How alike the updates of adapted folders are: norms and cosines by kind of module, without making any update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from seal_lightning.adapt.bases import checked_adapter, common_base, skeleton
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.merging import update_norm, update_product
from seal_lightning.models.lora import LoraAdapter


@dataclass(frozen=True, kw_only=True)
class SimilarUpdates:
    """Two folders' updates of one kind of module."""

    a: str
    b: str
    """The folders' names."""
    modules: str
    """The last part of the modules' names, for instance ``q_proj``."""
    norm_a: float
    norm_b: float
    """Frobenius, over all layers; 0 where a folder does not adapt these."""
    cosine: float | None
    """In [-1, 1]; None where a norm is 0."""


def similar_updates(folders: Sequence[AdaptedFolder], trust_remote_code: bool = False) -> list[SimilarUpdates]:
    """Every pair of folders, every kind of module.

    Raises :class:`ConfigError` for different bases, :class:`ModelError` for a damaged adapter.
    """
    model = skeleton(common_base(folders), trust_remote_code=trust_remote_code)
    adapters = [checked_adapter(folder, model) for folder in folders]
    kinds = sorted({_kind(name) for adapter in adapters for name in adapter.weights})
    return [
        _pair((folders[i].name, folders[j].name), kind, _of_kind(adapters[i], kind), _of_kind(adapters[j], kind))
        for i, j in combinations(range(len(folders)), 2)
        for kind in kinds
    ]


def _pair(names: tuple[str, str], kind: str, one: LoraAdapter, other: LoraAdapter) -> SimilarUpdates:
    norm_a, norm_b = update_norm(one), update_norm(other)
    cosine = None
    if norm_a > 0 and norm_b > 0:
        cosine = math.copysign(min(1.0, abs(c := update_product(one, other) / norm_a / norm_b)), c)
    return SimilarUpdates(a=names[0], b=names[1], modules=kind, norm_a=norm_a, norm_b=norm_b, cosine=cosine)


def _of_kind(adapter: LoraAdapter, kind: str) -> LoraAdapter:
    return replace(adapter, weights={name: pair for name, pair in adapter.weights.items() if _kind(name) == kind})


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
