"""How a question is put to a model: as in its exams, so that what was measured there is what is asked here."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.adapt.record import Asking
from seal_lightning.core import Prompt
from seal_lightning.core.errors import DataError, shown
from seal_lightning.domains.knowledge.own_questions import ExamWording, exam_prompts
from seal_lightning.domains.knowledge.passage import Passage, Question


@dataclass(frozen=True, kw_only=True)
class AskedQuestion:
    """A question as a model is given it."""

    question: str
    topic: str
    """The title that stands before it; blank: none."""
    prompt: Prompt
    stop: tuple[str, ...]
    """Strings at which the answer ends: that of a base model with its line."""


def asked_question(question: str, asking: Asking, topic: str = "") -> AskedQuestion:
    """The prompt that an exam has for this question on a passage of this title; without a topic, less the topic's line.

    Raises :class:`DataError` for a question of blanks, and for text that is no Unicode.
    """
    _check_text(question, "the question")
    _check_text(topic, "the topic")
    if not question.strip():
        raise DataError("the question is empty: give it some words")
    wording = ExamWording(
        topic=asking.topic if topic else "",
        question=asking.question,
        answer=asking.answer,
        chat_instruction=asking.chat_instruction,
    )
    passage = Passage(
        task_id="asked",
        title=topic,
        context="",
        questions=(Question(question_id="asked", question=question, answers=("",)),),
    )
    (exam,) = exam_prompts(passage, asking.style, wording, asking.max_answer_tokens, with_passage=False)
    return AskedQuestion(question=question, topic=topic, prompt=exam.prompt, stop=exam.stop)


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} {shown(text)} is no text: character {error.start} is half of a surrogate pair, or a byte that is no "
            "UTF-8. Give it as UTF-8"
        ) from error
