"""Prompts, plans and exams, letter for letter.

After a change that is meant, rewrite the files with ``SEAL_REGENERATE_GOLDEN=1 pytest tests/domains/knowledge`` and
read the difference. Texts are stored as lists of lines.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from seal_lightning.domains.knowledge import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    KnowledgeDomain,
    NoInstruction,
    Rewrites,
    SelfQA,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FORMATS = [Implications, ImplicationsLong, ImplicationsVeryLong, Rewrites, SelfQA, ChainOfThought, NoInstruction]
EDITS = {
    Rewrites: "Rye was ground at Tarnow.\n---\nIn 1788 a flood\ntook the wheel.",
    SelfQA: "Sure:\nQuestion 1: Where?\nAnswer: Tarnow\n\nQuestion 2: When?\nAnswer: 1620",
    ChainOfThought: "Dates matter.\n\nImplications:\n1. Rye was ground.\n2. The wheel is gone.",
}
LIST_EDIT = "Here is the list:\n\n1. Rye was ground.\n2. The wheel is gone.\n---\n- A flood came."


def compare(name: str, found: object) -> None:
    path = GOLDEN / f"knowledge_{name}.json"
    written = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("SEAL_REGENERATE_GOLDEN") == "1":
        path.write_text(written, encoding="utf-8")
    assert json.loads(written) == json.loads(path.read_text(encoding="utf-8"))


def lines(prompt):
    return prompt.split("\n") if isinstance(prompt, str) else [[t.role, *t.content.split("\n")] for t in prompt]


def domains(examples_path):
    for make in FORMATS:
        for style in ("base", "chat"):
            for count in (0,) if make is NoInstruction else (0, 2):
                chosen = make(num_examples=count)
                domain = KnowledgeDomain(format=chosen, style=style, examples_path=examples_path)
                yield f"{make.__name__}, {style}, {count} examples", domain


def test_prompts(passage, examples_path):
    found = {
        name: {"prompt": lines(domain.edit_prompt(passage)), "stop": domain.edit_stop()}
        for name, domain in domains(examples_path)
    }
    compare("prompts", found)


def test_plans(passage, edit):
    found = {}
    for make in FORMATS:
        plan = KnowledgeDomain(format=make()).plan(passage, edit(EDITS.get(make, LIST_EDIT)))
        found[make.__name__] = [[asdict(segment) for segment in s.segments] for s in plan.sequences]
    compare("plans", found)


@pytest.mark.parametrize("style", ["base", "chat"])
def test_exams(passage, style):
    domain = KnowledgeDomain(exam_style=style)
    found = {
        name: [{**asdict(prompt), "prompt": lines(prompt.prompt)} for prompt in prompts]
        for name, prompts in (("exam", domain.exam(passage)), ("in_context", domain.in_context_exam(passage)))
    }
    compare(f"exams_{style}", found)
