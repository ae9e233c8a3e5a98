"""Rewards: the scores of an attempt to a number."""

from seal_lightning.scoring.rewards.combinations import GainReward, WeightedSum, WeightedTerm
from seal_lightning.scoring.rewards.exam_rewards import (
    AccuracyReward,
    FunctionReward,
    LikelihoodReward,
    PartialCreditReward,
    SolvedReward,
)
from seal_lightning.scoring.rewards.own_questions_reward import OwnQuestionsReward
from seal_lightning.scoring.rewards.retention import RetentionReward
from seal_lightning.scoring.rewards.rubric import RubricReward

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
