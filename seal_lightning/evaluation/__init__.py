"""Held-out evaluation: what adaptation on edits is worth, beside honest controls."""

from seal_lightning.evaluation.conditions import Arm, Condition, ConditionResult
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.mitigations import KLAnchor, LowRankMerge, MergeGate, Mitigation, Replay, ScaledMerge
from seal_lightning.evaluation.protocols import ContinualSelfEdits, ContinuedPretraining, Protocol, SinglePassage
from seal_lightning.evaluation.table import ConditionRow, condition_table

__all__ = [
    "Arm",
    "Condition",
    "ConditionResult",
    "ConditionRow",
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
    "condition_table",
]
