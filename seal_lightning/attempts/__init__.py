"""The one way to try an edit: propose, plan, adapt, examine, judge.

The E-step, validation, test and replay all come through here. Written against the seams: no domain, engine, inner loop,
grader or reward is known by name.
"""

from seal_lightning.attempts.attempting import Attempting
from seal_lightning.attempts.background import InBackground
from seal_lightning.attempts.further_exams import SetExam
from seal_lightning.attempts.judging import Computed

__all__ = ["Attempting", "Computed", "InBackground", "SetExam"]
