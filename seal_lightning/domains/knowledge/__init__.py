"""Knowledge incorporation (§3.2): passages, prompt formats, plans and exams."""

from seal_lightning.domains.json_records import InvalidRecord
from seal_lightning.domains.knowledge.directed_edits import DirectedEdits
from seal_lightning.domains.knowledge.documents import Documents
from seal_lightning.domains.knowledge.domain import KnowledgeDomain
from seal_lightning.domains.knowledge.edit_file import EditFile
from seal_lightning.domains.knowledge.entigraph import EntiGraph, EntiGraphWording
from seal_lightning.domains.knowledge.exam_questions import ExamWording, OwnQuestions
from seal_lightning.domains.knowledge.formats import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    NoInstruction,
    PromptFormat,
    Rewrites,
    SelfQA,
    Style,
)
from seal_lightning.domains.knowledge.passage import Passage, Question, passage_id
from seal_lightning.domains.knowledge.passage_sources import (
    BundledPassages,
    HubDataset,
    PassagesJson,
    PassagesJsonl,
    PassageSource,
    SquadJson,
)
from seal_lightning.domains.knowledge.worked_examples import WorkedExample, load_examples

__all__ = [
    "BundledPassages",
    "ChainOfThought",
    "DirectedEdits",
    "Documents",
    "EditFile",
    "EntiGraph",
    "EntiGraphWording",
    "ExamWording",
    "HubDataset",
    "Implications",
    "ImplicationsLong",
    "ImplicationsVeryLong",
    "InvalidRecord",
    "KnowledgeDomain",
    "NoInstruction",
    "OwnQuestions",
    "Passage",
    "PassageSource",
    "PassagesJson",
    "PassagesJsonl",
    "PromptFormat",
    "Question",
    "Rewrites",
    "SelfQA",
    "SquadJson",
    "Style",
    "WorkedExample",
    "load_examples",
    "passage_id",
]
