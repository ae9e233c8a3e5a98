"""Held-out evaluation: what adaptation on a self-edit is worth, beside honest controls."""

from seal_lightning.evaluation.conditions import Condition, ConditionResult, Evaluation
from seal_lightning.evaluation.table import ConditionRow, condition_table

__all__ = ["Condition", "ConditionResult", "ConditionRow", "Evaluation", "condition_table"]
