"""Rewards: scores to a number."""

from seal_lightning.rewards.accuracy import AccuracyReward
from seal_lightning.rewards.gain import GainReward
from seal_lightning.rewards.likelihood import LikelihoodReward

__all__ = ["AccuracyReward", "GainReward", "LikelihoodReward"]
