"""One invented passage, with worked examples, that all tests of the knowledge domain share."""

import json

import pytest

from seal_lightning.core import SelfEdit
from seal_lightning.domains.knowledge import Passage, Question

EXAMPLES = [
    {
        "title": "Salt Lamp of Orrin",
        "context": "The salt lamp of Orrin was lit in 1701. It burned whale oil until 1850.",
        "implications": ["The salt lamp of Orrin was lit in 1701.", "From 1850 it burned no whale oil."],
        "rewrites": ["Orrin's salt lamp first burned in 1701.", "Whale oil fed the lamp at Orrin until 1850."],
        "self_qa": [
            {"question": "When was the salt lamp of Orrin lit?", "answer": "1701"},
            {"question": "What did it burn?", "answer": "whale oil"},
        ],
        "reasoning": "Two dates matter: the first light and the end of whale oil.",
    },
    {
        "title": "Grey Ferry",
        "context": "The grey ferry crosses twice a day.",
        "implications": ["The grey ferry makes two crossings a day."],
        "rewrites": ["Twice a day, the grey ferry crosses."],
        "self_qa": [{"question": "How often does the grey ferry cross?", "answer": "twice a day"}],
        "reasoning": "Only the frequency is told.",
    },
]


@pytest.fixture
def examples_path(tmp_path):
    path = tmp_path / "examples.json"
    path.write_text(json.dumps(EXAMPLES), encoding="utf-8")
    return path


@pytest.fixture
def passage():
    return Passage.named(
        title="Mill of Tarnow",
        context="The mill of Tarnow ground rye from 1620 on. A flood took its wheel in 1788.",
        questions=[
            Question(question_id="q-a", question="What did the mill grind?", answers=("rye", "Rye")),
            Question(question_id="q-b", question="When was the wheel lost?", answers=("1788",)),
        ],
    )


@pytest.fixture
def edit(passage):
    """Makes a self-edit about the passage from its text."""
    return lambda text: SelfEdit(task_id=passage.task_id, edit_index=0, text=text)
