"""What all judges share: each different question is decided once, kept on the disk, counted, and limited."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seal_lightning.core import JudgeCounts, Judgement, JudgeQuestion
from seal_lightning.core.errors import require
from seal_lightning.core.interfaces import Judge
from seal_lightning.distributed import interruption
from seal_lightning.distributed.background_loop import LOOK_EVERY_S, on_main_thread
from seal_lightning.models.wheels import cache_folder
from seal_lightning.scoring.judges.tally import Tally
from seal_lightning.scoring.judges.verdict_cache import VerdictCache

Took = Callable[[JudgeQuestion, Judgement], None]
"""To be told of each judgement as it comes; raises :class:`RunError` when no more shall be asked."""


class CachedJudge(Judge):
    """A judge that asks only what it does not know. A new one says who it is (:attr:`identity`) and how it :meth:`asks`.

    Args:
        tally: counts, and stops the run.
        cache_dir: where decisions are kept; None is ``judgements`` in the package's cache folder.
        use_cache: whether they are.
        max_cached: decisions kept in that folder.
        max_chars: ≥ 1, characters of a question's texts together; a longer question is not asked and is undecided.
    """

    def __init__(
        self,
        tally: Tally,
        cache_dir: str | None = None,
        use_cache: bool = True,
        max_cached: int = 200_000,
        max_chars: int = 100_000,
    ) -> None:
        require(max_chars >= 1, "judge.max_chars", max_chars, "at least 1")
        self.tally = tally
        self.cache_dir = cache_dir
        self.use_cache = use_cache
        self.max_chars = max_chars
        folder = Path(cache_dir) if cache_dir is not None else cache_folder() / "judgements"
        self._cache = VerdictCache(folder, max_cached)

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """All that its decisions depend on beside the question, as JSON: model, wording, settings. No secret."""

    @abstractmethod
    def asks(self, questions: Sequence[JudgeQuestion], took: Took) -> None:
        """Decide these different questions and tell ``took`` of each, in any order, from this thread."""

    @property
    def counts(self) -> JudgeCounts:
        """What it was asked so far in this process."""
        return self.tally.counts

    def decide(self, questions: Sequence[JudgeQuestion]) -> Sequence[Judgement]:
        """One judgement a question, in order; of equal questions one is asked.

        Raises :class:`RunError` when too many are undecided or too much is spent; what was decided is kept.
        """
        found: dict[JudgeQuestion, Judgement] = {}
        keys = {}
        for question in dict.fromkeys(questions):
            known = None
            if self.use_cache:
                keys[question] = self._cache.key(self.identity, question)
                known = self._cache.get(keys[question], question)
            if known is not None:
                found[question] = known
                self.tally.cached()

        def took(question: JudgeQuestion, judgement: Judgement) -> None:
            found[question] = judgement
            if self.use_cache:
                self._cache.put(keys[question], judgement)
            self.tally.took(judgement)

        unknown = [question for question in dict.fromkeys(questions) if question not in found]
        if asked := [question for question in unknown if _num_chars(question) <= self.max_chars]:
            with _held(self.tally.turn):
                self.asks(asked, took)
        # Last, so that a few of them among many others are seen as the small share they are.
        for question in (one for one in unknown if one not in found):
            took(question, Judgement(option=None, reason=f"the texts have more than {self.max_chars} characters"))
        return [found[question] for question in questions]


@contextmanager
def _held(turn: threading.Lock) -> Iterator[None]:
    """Wait for a lock; on the main thread, a stop of the run is heard meanwhile."""
    while not turn.acquire(timeout=LOOK_EVERY_S):
        if on_main_thread():
            interruption.check()
    try:
        yield
    finally:
        turn.release()


def _num_chars(question: JudgeQuestion) -> int:
    return len(question.instruction) + sum(len(name) + len(text) for name, text in question.material)
