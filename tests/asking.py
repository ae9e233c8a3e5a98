"""A toy domain whose policy asks questions of its own, and a judge; YAML names them ``asking.AskingDomain`` and so on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fakes import COLOURS, ToyDomain, ToyTask

from seal_lightning.core import Judgement, JudgeQuestion, Prompt, Task
from seal_lightning.core.interfaces import Judge


class AskingDomain(ToyDomain):
    """A text holds one question if it is about an even stone."""

    def context_text(self, task: ToyTask) -> str:
        return task.context

    def question_prompt(self, task: ToyTask, num_questions: int) -> Prompt:
        return f"{task.context}\nQuestion:"

    def parse_questions(self, task: ToyTask, text: str) -> Sequence[tuple[str, str]]:
        return [(text, COLOURS[len(text) % 6])] if int(task.key[-1]) % 2 == 0 else []

    def with_questions(self, task: ToyTask, questions: Sequence[tuple[str, str]]) -> Task:
        return replace(task, value=questions[0][1])


class LengthJudge(Judge):
    """Marks by length; keeps what it was asked, call by call.

    Args:
        in_background: whether it may be asked from another thread.
    """

    def __init__(self, in_background: bool = False) -> None:
        self.in_background = in_background
        self.asked: list[int] = []

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        self.asked.append(len(questions))
        texts = [dict(question.material)["Text"] for question in questions]
        return [
            Judgement(option=None if text == "unjudged" else q.options[min(len(text) // 4, 4)], reason="down")
            for q, text in zip(questions, texts, strict=True)
        ]
