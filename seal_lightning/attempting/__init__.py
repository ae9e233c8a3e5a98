"""The one way to try an edit: propose, plan, adapt, examine, judge.

The E-step, validation, test and replay all come through here. Written against the seams: no domain, engine, inner loop,
grader or reward is known by name.
"""

from seal_lightning.attempting.attempting import Attempting
from seal_lightning.attempting.background import InBackground
from seal_lightning.attempting.further_exams import SetExam
from seal_lightning.attempting.judging import Computed

__all__ = ["Attempting", "Computed", "InBackground", "SetExam"]
