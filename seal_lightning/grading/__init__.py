"""Grading: answers to verdicts."""

from seal_lightning.grading.agreement import cohen_kappa, exact_match_and_f1
from seal_lightning.grading.local_rules import LocalRules

__all__ = ["LocalRules", "cohen_kappa", "exact_match_and_f1"]
