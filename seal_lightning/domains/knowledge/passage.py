"""The task of knowledge incorporation (§3.2): a passage to be learned, and questions that examine it unseen."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from seal_lightning.core import Task

_SLUG_LENGTH = 60
_MOST_TITLE_CHARS = 1000
"""Of a title in a slug: Unicode's normal form takes time quadratic in a run of accents."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a passage.

    Example:
        >>> Question(question_id="q0", question="How many arches?", answers=("nine", "9")).answers[0]
        'nine'

    """

    question_id: str
    """Unique within its passage."""
    question: str
    answers: tuple[str, ...]
    """The gold answers, at least one; matching any is right. The first is the one whose likelihood is measured."""


@dataclass(frozen=True, kw_only=True)
class Passage(Task):
    """A passage and the questions on it: the pair (C, τ) of §3.2.

    Example:
        >>> Passage.named(title="The Bridge", context="It has nine arches.", questions=()).task_id
        'the-bridge-a1eff0'

    """

    title: str
    context: str
    """The passage's text, without its title."""
    questions: tuple[Question, ...]
    """May be empty, where a source samples questions or does not require them: nothing is then measured."""

    @classmethod
    def named(cls, *, title: str, context: str, questions: Iterable[Question]) -> Passage:
        """Return a passage with the ``task_id`` of its title and context."""
        return cls(task_id=passage_id(title, context), title=title, context=context, questions=tuple(questions))


def passage_id(title: str, context: str) -> str:
    """Return the title as a slug, ``-``, and six hex digits of a hash of title and context (sixteen without a slug).

    It depends on nothing else, in particular not on the file or the order. It holds only ``a-z``, ``0-9`` and ``-``, so it
    is safe as a file name.
    """
    digest = hashlib.sha256(f"{title}\n{context}".encode(errors="surrogatepass")).hexdigest()
    slug = _slug(title)
    return f"{slug}-{digest[:6]}" if slug else f"passage-{digest[:16]}"  # titles in other scripts all share that word


def _slug(title: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", title[:_MOST_TITLE_CHARS]).encode("ascii", errors="ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower())[:_SLUG_LENGTH].strip("-")
