"""The one way to try an edit: propose, plan, adapt, examine, judge.

The E-step, validation, test and replay all come through here. Written against the seams: no domain, engine, inner loop,
grader or reward is known by name.
"""

from seal_lightning.attempts.auxiliary_exams import SetExam
from seal_lightning.attempts.background import BackgroundStage
from seal_lightning.attempts.judging import Computed
from seal_lightning.attempts.runner import AttemptRunner

__all__ = ["AttemptRunner", "BackgroundStage", "Computed", "SetExam"]
