"""How a passage's questions are put to a model (§3.2): without the passage, or with it for reference."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.core import ChatMessage, ExamPrompt
from seal_lightning.domains.knowledge.formats import Style
from seal_lightning.domains.knowledge.passage import Passage, Question


@dataclass(frozen=True, kw_only=True)
class ExamWording:
    """The words around a question."""

    topic: str = "Topic:"
    """Stands before the passage's title; blank leaves the title out."""
    question: str = "Question:"
    answer: str = "Answer:"
    """Ends a base prompt."""
    passage: str = "Passage:"
    """Stands before the passage, where it is shown."""
    chat_instruction: str = "Answer in as few words as you can, without an explanation."
    """Ends the user's turn of a chat prompt; blank: nothing does."""


def exam_prompts(
    passage: Passage, style: Style, wording: ExamWording, max_answer_tokens: int, *, with_passage: bool
) -> tuple[ExamPrompt, ...]:
    """One prompt a question, in order.

    A base prompt ends with the answer's heading; its target is a blank and the first gold answer, and the answer ends
    with the line. A chat prompt is one user turn; its target is the first gold answer.
    """
    return tuple(
        _exam_prompt(q, _asked(passage, q, wording, with_passage=with_passage), style, wording, max_answer_tokens)
        for q in passage.questions
    )


def _exam_prompt(
    question: Question, asked: str, style: Style, wording: ExamWording, max_answer_tokens: int
) -> ExamPrompt:
    gold = question.answers[0]
    if style == "base":
        return ExamPrompt(
            question_id=question.question_id,
            prompt=f"{asked}\n{wording.answer}",
            target=f" {gold}",
            max_new_tokens=max_answer_tokens,
            stop=("\n",),
        )
    content = "\n\n".join(part for part in (asked, wording.chat_instruction) if part)
    return ExamPrompt(
        question_id=question.question_id,
        prompt=(ChatMessage(role="user", content=content),),
        target=gold,
        max_new_tokens=max_answer_tokens,
    )


def _asked(passage: Passage, question: Question, wording: ExamWording, *, with_passage: bool) -> str:
    shown_passage = f"{wording.passage}\n{passage.title}\n{passage.context}\n\n" if with_passage else ""
    topic = f"{wording.topic} {passage.title}\n" if wording.topic else ""
    return f"{shown_passage}{topic}{wording.question} {question.question}"
