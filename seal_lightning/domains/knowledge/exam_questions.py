"""Questions on passages: the prompts of exams, and questions that the policy writes itself, for exams without labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seal_lightning.core import ChatMessage, ExamPrompt, Prompt
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.domains.knowledge import splitting
from seal_lightning.domains.knowledge.formats import SelfQA, Style
from seal_lightning.domains.knowledge.passage import Passage, Question
from seal_lightning.domains.knowledge.worked_examples import WorkedExample


@dataclass(frozen=True, kw_only=True)
class ExamWording:
    """The words around a question.

    Example:
        >>> ExamWording(topic="Subject:").answer
        'Answer:'

    """

    topic: str = "Topic:"
    """Precedes the passage's title; an empty text omits the title."""
    question: str = "Question:"
    answer: str = "Answer:"
    """Ends a base prompt."""
    passage: str = "Passage:"
    """Precedes the passage, where it is shown."""
    chat_instruction: str = "Answer in as few words as you can, without an explanation."
    """Ends the user turn of a chat prompt; may be empty."""


def exam_prompts(
    passage: Passage, style: Style, wording: ExamWording, max_answer_tokens: int, *, with_passage: bool
) -> tuple[ExamPrompt, ...]:
    """Return one prompt per question, in order.

    A base prompt ends with the answer's heading; its target is a blank and the first gold answer, and the answer ends
    with the line. A chat prompt is one user turn; its target is the first gold answer.
    """
    shown_passage = f"{wording.passage}\n{passage.title}\n{passage.context}\n\n" if with_passage else ""
    topic = f"{wording.topic} {passage.title}\n" if wording.topic else ""
    prompts = []
    for question in passage.questions:
        text = f"{shown_passage}{topic}{wording.question} {question.question}"
        gold = question.answers[0]
        prompt: Prompt = f"{text}\n{wording.answer}"
        if style == "chat":
            prompt = (ChatMessage(role="user", content=f"{text}\n\n{wording.chat_instruction}".rstrip("\n")),)
        prompts.append(
            ExamPrompt(
                question_id=question.question_id,
                prompt=prompt,
                target=f" {gold}" if style == "base" else gold,
                max_new_tokens=max_answer_tokens,
                stop=("\n",) if style == "base" else (),
            )
        )
    return tuple(prompts)


_QUESTION = re.compile(r"[ \t]*+(?:\d{1,3}[.)])?[ \t#*]*+Question[ \t]*+\d*+[ \t]*+:[ \t*]*+", re.IGNORECASE)
_ANSWER = re.compile(r"(?:^|(?<=\s)|(?<=[*]))Answer[ \t]*+\d*+[ \t]*+:[ \t*]*+", re.IGNORECASE)
_ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class OwnQuestions(SelfQA):
    """Prompt for questions with short answers, and the filter for usable ones.

    In a base prompt, worked examples precede the passage, as in the edits' formats; small models need them.

    Example:
        >>> passage = Passage.named(title="Bridge", context="The bridge has nine arches.", questions=())
        >>> OwnQuestions().written(passage, "Question 1: How many arches are there?\\nAnswer: nine")
        (('How many arches are there?', 'nine'),)

    """

    instruction: str = (
        "Study the passage below and write {num_questions} questions on its facts. Each must be understood by someone who "
        "cannot see the passage, and its answer must be a few words copied from the passage. Start a line with "
        '"Question 1:", "Question 2:" and so on for each question, and the next line with "Answer:".'
    )
    """``{num_questions}`` becomes the number."""
    num_examples: int = 2
    extractive: bool = True
    """Drop questions whose answer is not word by word in the passage: the only check without labels."""
    grounded: bool = True
    """Drop questions with an invented name or number (a capital inside, a digit): not in title or passage."""
    max_question_chars: int = 300
    """≥ 1; longer ones are dropped."""
    max_answer_chars: int = 100
    """≥ 1; questions with longer answers are dropped."""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        super().__post_init__()
        for name in ("max_question_chars", "max_answer_chars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"OwnQuestions: {name} is {shown(getattr(self, name))}; allowed is 1 or more")

    def prompt(self, passage: Passage, style: Style, num_questions: int, examples: Sequence[WorkedExample]) -> Prompt:
        """Return the prompt for ``num_questions`` questions."""
        asking = replace(self, instruction=self.instruction.replace("{num_questions}", str(num_questions)))
        return asking.base_prompt(passage, examples) if style == "base" else asking.chat_prompt(passage, examples)

    def written(self, passage: Passage, text: str) -> tuple[tuple[str, str], ...]:
        """Return the (question, answer) pairs of a text, each question once.

        Dropped are pairs without a question or an answer, that are too long, whose answer is in the question or the title
        (which the exam shows), and those that fail ``extractive`` or ``grounded``.
        """
        context, title = _words(passage.context), _words(passage.title)
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for piece in splitting.question_answer_pairs(splitting.readable(text)):
            pair = _pair(piece)
            if pair is not None and self._is_usable(*pair, context, title):
                found.setdefault(_words(pair[0]), pair)
        return tuple(found.values())

    def _is_usable(self, question: str, answer: str, context: tuple[str, ...], title: tuple[str, ...]) -> bool:
        if len(question) > self.max_question_chars or len(answer) > self.max_answer_chars:
            return False
        asked, wanted = _words(question), _words(answer)
        if not asked or {*wanted} <= {*asked, *title, *_ARTICLES}:
            return False
        if self.grounded and not {*_words(" ".join(_names(question)))} <= {*title, *context}:
            return False
        return not self.extractive or _within(wanted, context)


def examined_by(passage: Passage, questions: Sequence[tuple[str, str]]) -> Passage:
    """Return the passage with these questions instead of its own."""
    asked = [
        Question(question_id=f"own-{number}", question=question, answers=(answer,))
        for number, (question, answer) in enumerate(questions, start=1)
    ]
    return replace(passage, questions=tuple(asked))


def _pair(piece: str) -> tuple[str, str] | None:
    """Return a piece's question and answer; the answer is one line, without its full stop."""
    start, answer = _QUESTION.match(piece), _ANSWER.search(piece)
    if start is None or answer is None or answer.start() < start.end():
        return None
    question = " ".join(piece[start.end() : answer.start()].split()).rstrip(" *")
    lines = piece[answer.end() :].strip().split("\n", 1)
    return question, " ".join(lines[0].split()).strip("*\"'“”").removesuffix(".").strip()


def _names(question: str) -> list[str]:
    """Return the question's words, except the first, that begin with a capital or a digit."""
    return [word for word in _WORD.findall(question)[1:] if not word[0].islower() and word != "I"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _within(words: tuple[str, ...], text: tuple[str, ...]) -> bool:
    """Return True if the words stand side by side in the text."""
    return f" {' '.join(words)} " in f" {' '.join(text)} "
