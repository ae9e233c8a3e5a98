"""Prompts of questions to a model, as its exams put them."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.adapt.record import Asking
from seal_lightning.core import Prompt
from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.exam_questions import ExamWording, exam_prompts
from seal_lightning.domains.knowledge.passage import Passage, Question


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A question and its prompt."""

    question: str
    topic: str
    """The title before the question; empty for none."""
    prompt: Prompt
    stop: tuple[str, ...]
    """Strings at which the answer ends: the line end for a base model."""


def asked_question(question: str, asking: Asking, topic: str = "") -> AskedQuestion:
    """Return the prompt of an exam's question on a passage with this title; without a topic, its line is dropped.

    Raises :class:`DataError` for a blank question, and for text that is not Unicode.
    """
    for text, name in ((question, "the question"), (topic, "the topic")):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{name} {shown(text)} is not valid Unicode at character {error.start}") from error
    if not question.strip():
        raise DataError("the question is empty: give it some words")
    wording = ExamWording(
        topic=asking.topic if topic else "",
        question=asking.question,
        answer=asking.answer,
        chat_instruction=asking.chat_instruction,
    )
    questions = (Question(question_id="asked", question=question, answers=("",)),)
    passage = Passage(task_id="asked", title=topic, context="", questions=questions)
    (exam,) = exam_prompts(passage, asking.style, wording, asking.max_answer_tokens, with_passage=False)
    return AskedQuestion(question=question, topic=topic, prompt=exam.prompt, stop=exam.stop)
