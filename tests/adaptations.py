"""Adaptations of the tiny model, and what they are made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml
from fakes import write_tiny_model

DOCUMENT = """# The tidal mill

The mill stands on the northern shore of Varsk. It was built in 1742 by the shipwright Tomas Helgren.

## Its wheels

Three sluices drive three wheels of larch wood, and each wheel is six metres wide. A bell called Old Marta rang.

## Its end

The mill stopped grinding in 1958, when the ferry brought flour. The teacher Joren Pell repaired the wheels.
"""
QUESTIONS = (
    ("Who built the mill?", "Tomas Helgren"),
    ("When was the mill built?", "1742"),
    ("How wide is each of the wheels?", "six metres"),
    ("What was the bell called?", "Old Marta"),
    ("When did the mill stop grinding?", "1958"),
    ("Who repaired the wheels?", "Joren Pell"),
)
SETTINGS = {
    "adapt": {"passage_tokens": 128},
    "model": {
        "pretrained": {"dtype": "float64"},
        "num_edits": 2,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12},
        "domain": {
            "init_args": {
                "max_answer_tokens": 4,
                "adapter": {"rank": 2, "alpha": 8},
                "optimizer": {"learning_rate": 0.05, "num_epochs": 2, "batch_size": 4},
            }
        },
        "protocol": {"init_args": {"optimizer": {"learning_rate": 0.05, "num_epochs": 2, "batch_size": 2}}},
    },
}


class Case:
    """A folder with a tiny model, a document, questions and settings, and the command over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.model = write_tiny_model(folder / "tiny", max_length=2048)
        self.document = folder / "mill.md"
        self.document.write_text(DOCUMENT)
        self.questions = folder / "questions.jsonl"
        self.questions.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in QUESTIONS))
        self.settings = folder / "settings.yaml"
        self.settings.write_text(yaml.safe_dump(SETTINGS))

    def words(self, out: str, *more: str, policy: str | None = None) -> list[str]:
        """The command's words, behind ``seal``."""
        return [
            "adapt",
            str(self.document),
            "--out",
            str(self.folder / out),
            "--policy",
            policy or str(self.model),
            "--questions",
            str(self.questions),
            "-c",
            str(self.settings),
            *more,
        ]


def contents(folder: Path) -> dict[str, str]:
    """The files of a folder with their hashes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
