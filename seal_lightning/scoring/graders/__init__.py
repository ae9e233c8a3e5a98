"""Graders: a question, gold answers and an answer to a verdict."""

from seal_lightning.scoring.graders.agreement import cohen_kappa, exact_match_and_f1
from seal_lightning.scoring.graders.judge_grader import GradingWording, JudgeGrader
from seal_lightning.scoring.graders.local_rules import LocalRules

__all__ = ["GradingWording", "JudgeGrader", "LocalRules", "cohen_kappa", "exact_match_and_f1"]
