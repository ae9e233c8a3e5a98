"""What can be done against forgetting where edits are merged one after another; each a small class, and they compose."""

from seal_lightning.evaluation.mitigations.base import MergeDecision, Mitigation, Proposal
from seal_lightning.evaluation.mitigations.gate import MergeGate
from seal_lightning.evaluation.mitigations.kl_anchor import KLAnchor
from seal_lightning.evaluation.mitigations.replay import Replay
from seal_lightning.evaluation.mitigations.smaller_merges import LowRankMerge, ScaledMerge

__all__ = [
    "KLAnchor",
    "LowRankMerge",
    "MergeDecision",
    "MergeGate",
    "Mitigation",
    "Proposal",
    "Replay",
    "ScaledMerge",
]
