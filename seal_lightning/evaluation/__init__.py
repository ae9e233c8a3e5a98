"""Held-out evaluation: protocols, their episodes, and mitigations of forgetting."""

from seal_lightning.core.evaluation_records import Arm, Condition, ConditionResult
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.mitigations import KLAnchor, LowRankMerge, MergeGate, Mitigation, Replay, ScaledMerge
from seal_lightning.evaluation.protocols import ContinualSelfEdits, ContinuedPretraining, Protocol, SinglePassage

__all__ = [
    "Arm",
    "Condition",
    "ConditionResult",
    "ContinualSelfEdits",
    "ContinuedPretraining",
    "Evaluation",
    "KLAnchor",
    "LowRankMerge",
    "MergeGate",
    "Mitigation",
    "Protocol",
    "Replay",
    "ScaledMerge",
    "SinglePassage",
]
