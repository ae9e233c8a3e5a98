"""Rewards: scores to a number."""

from seal_lightning.scoring.rewards.accuracy import AccuracyReward
from seal_lightning.scoring.rewards.function import FunctionReward
from seal_lightning.scoring.rewards.gain import GainReward
from seal_lightning.scoring.rewards.likelihood import LikelihoodReward
from seal_lightning.scoring.rewards.own_questions import OwnQuestionsReward
from seal_lightning.scoring.rewards.retention import RetentionReward
from seal_lightning.scoring.rewards.rubric import RubricReward
from seal_lightning.scoring.rewards.solved import PartialCreditReward, SolvedReward
from seal_lightning.scoring.rewards.weighted_sum import WeightedSum, WeightedTerm

__all__ = [
    "AccuracyReward",
    "FunctionReward",
    "GainReward",
    "LikelihoodReward",
    "OwnQuestionsReward",
    "PartialCreditReward",
    "RetentionReward",
    "RubricReward",
    "SolvedReward",
    "WeightedSum",
    "WeightedTerm",
]
