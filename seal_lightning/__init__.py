"""SEAL, Self-Adapting Language Models (arXiv 2506.10943), as a PyTorch Lightning modular trainer.

Example:
    >>> import seal_lightning
    >>> sorted(seal_lightning.__all__)[:3]
    ['AdapterSpec', 'ArcDomain', 'Attempt']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seal_lightning.callbacks import BestOfK, RewardFilter
    from seal_lightning.cli.trainer import seal_trainer
    from seal_lightning.core import AdapterSpec, Attempt, OptimizerSpec, SamplingSpec
    from seal_lightning.core.configurable import Configurable
    from seal_lightning.core.interfaces import Domain, Reward
    from seal_lightning.domains.arc import ArcDomain
    from seal_lightning.domains.knowledge import KnowledgeDomain
    from seal_lightning.models.pretrained import Pretrained
    from seal_lightning.reporting.runs import load_attempts
    from seal_lightning.training.data_module import SealDataModule
    from seal_lightning.training.hooks import SealCallback
    from seal_lightning.training.module import SealModule

__version__ = "0.1.0"

_MODULES = {
    "AdapterSpec": "core",
    "ArcDomain": "domains.arc",
    "Attempt": "core",
    "BestOfK": "callbacks",
    "Configurable": "core.configurable",
    "Domain": "core.interfaces",
    "KnowledgeDomain": "domains.knowledge",
    "OptimizerSpec": "core",
    "Pretrained": "models.pretrained",
    "Reward": "core.interfaces",
    "RewardFilter": "callbacks",
    "SamplingSpec": "core",
    "SealCallback": "training.hooks",
    "SealDataModule": "training.data_module",
    "SealModule": "training.module",
    "load_attempts": "reporting.runs",
    "seal_trainer": "cli.trainer",
}
"""Imported at first use: `import seal_lightning`, and with it `seal report`, needs no torch."""

__all__ = [
    "AdapterSpec",
    "ArcDomain",
    "Attempt",
    "BestOfK",
    "Configurable",
    "Domain",
    "KnowledgeDomain",
    "OptimizerSpec",
    "Pretrained",
    "Reward",
    "RewardFilter",
    "SamplingSpec",
    "SealCallback",
    "SealDataModule",
    "SealModule",
    "load_attempts",
    "seal_trainer",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
