"""Rewards: scores to a number."""

from seal_lightning.rewards.accuracy import AccuracyReward
from seal_lightning.rewards.gain import GainReward
from seal_lightning.rewards.likelihood import LikelihoodReward
from seal_lightning.rewards.solved import PartialCreditReward, SolvedReward

__all__ = ["AccuracyReward", "GainReward", "LikelihoodReward", "PartialCreditReward", "SolvedReward"]
