"""Base class of judges: each distinct question is judged once, cached on disk, counted, and limited."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from seal_lightning.core import JudgeCounts, Judgement, JudgeQuestion
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.interfaces import Judge
from seal_lightning.distributed import interruption
from seal_lightning.distributed.background_loop import POLL_INTERVAL_S, on_main_thread
from seal_lightning.models.pretrained import cache_folder
from seal_lightning.scoring.judges.tally import JudgeTally
from seal_lightning.scoring.judges.verdict_cache import VerdictCache

Report = Callable[[JudgeQuestion, Judgement], None]
"""Receives each judgement as it comes; raises :class:`RunError` when no further question may be judged."""


class CachedJudge(Judge):
    """Judge that judges only questions missing from its cache. A subclass defines :attr:`identity` and :meth:`ask`.

    Args:
        tally: counts, and stops the run.
        cache_dir: folder of cached decisions; None is ``judgements`` in the package's cache folder.
        use_cache: whether decisions are cached.

    Example:
        >>> class FirstOption(CachedJudge):
        ...     identity = {"judge": "first option"}
        ...     def ask(self, questions, report):
        ...         for question in questions:
        ...             report(question, Judgement(option=question.options[0]))
        >>> question = JudgeQuestion(instruction="Is it red?", material=(), options=("yes", "no"))
        >>> FirstOption(JudgeTally("FirstOption"), use_cache=False).decide([question])[0].option
        'yes'
    """

    def __init__(self, tally: JudgeTally, cache_dir: str | None = None, use_cache: bool = True) -> None:
        self.tally = tally
        self.cache_dir = cache_dir
        self.use_cache = use_cache
        folder = Path(cache_dir) if cache_dir is not None else cache_folder() / "judgements"
        self._cache = VerdictCache(folder)

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """All that decisions depend on beside the question, as JSON: model, wording, settings. No secret."""

    @abstractmethod
    def ask(self, questions: Sequence[JudgeQuestion], report: Report) -> None:
        """Judge these distinct questions and call ``report`` once for each, in any order, from this thread."""

    @property
    def counts(self) -> JudgeCounts:
        """The counts of this process so far."""
        return self.tally.counts

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        """Return one judgement per question, in order; equal questions are judged once.

        Raises :class:`RunError` when too many are undecided or too much is spent; decisions made so far are cached.
        """
        distinct = list(dict.fromkeys(questions))
        found: dict[JudgeQuestion, Judgement] = {}
        keys = {question: self._cache.key(self.identity, question) for question in distinct if self.use_cache}
        for question, key in keys.items():
            if (known := self._cache.get(key, question)) is not None:
                found[question] = known
                self.tally.count_cached()

        def report(question: JudgeQuestion, judgement: Judgement) -> None:
            found[question] = judgement
            if self.use_cache:
                self._cache.put(keys[question], judgement)
            self.tally.count(judgement)

        if unknown := [question for question in distinct if question not in found]:
            with _held(self.tally.turn):
                self.ask(unknown, report)
        return [found[question] for question in questions]


def decided_by(judge: Judge, questions: Sequence[JudgeQuestion]) -> dict[JudgeQuestion, Judgement]:
    """Return a judge's judgements of distinct questions, checked: a judge may come from outside the package.

    A judgement with an option or probabilities that are not valid becomes undecided. Raises :class:`RunError` where the
    number of judgements is wrong.
    """
    distinct = list(dict.fromkeys(questions))
    judgements = list(judge.decide(distinct)) if distinct else []
    if len(judgements) != len(distinct):
        raise RunError(
            f"{type(judge).__name__} gave {len(judgements)} judgements on {len(distinct)} questions; it must return one per "
            "question, in order. Attempts are kept"
        )
    return {question: _checked(question, one) for question, one in zip(distinct, judgements, strict=True)}


def _checked(question: JudgeQuestion, judgement: Judgement) -> Judgement:
    p = judgement.probabilities
    if judgement.option is not None and judgement.option not in question.options:
        reason = f"{shown(judgement.option, 60)} is not one of the options"
    elif p is not None and not (len(p) == len(question.options) and all(0 <= one <= 1 for one in p)):
        reason = "its probabilities are not valid"
    else:
        return judgement
    return replace(judgement, option=None, reason=judgement.reason or reason, probabilities=None)


@contextmanager
def _held(turn: threading.Lock) -> Iterator[None]:
    """Hold a lock; while the main thread waits for it, it heeds a stop of the run."""
    while not turn.acquire(timeout=POLL_INTERVAL_S):
        if on_main_thread():
            interruption.check()
    try:
        yield
    finally:
        turn.release()
