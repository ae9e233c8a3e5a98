"""The one way an edit is tried: propose, plan, adapt, examine, judge, store."""

from seal_lightning.attempts.auxiliary_exams import PreparedExam
from seal_lightning.attempts.runner import AttemptRunner

__all__ = ["AttemptRunner", "PreparedExam"]
