"""The second half of an attempt, which needs no model of ours: judges are queried and the reward is computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from seal_lightning.attempts.drafts import Draft
from seal_lightning.attempts.exam_runner import grade_answers
from seal_lightning.core import Attempt, AttemptStatus, Measurement, Rating, Verdict
from seal_lightning.core.errors import RunError
from seal_lightning.core.interfaces import AnyDomain, Grader, Rater, Reward
from seal_lightning.distributed import interruption
from seal_lightning.scoring.rewards.exam_rewards import finite_score

ResultT = TypeVar("ResultT")

_POLL_INTERVAL_S = 0.1


class BackgroundCall(Generic[ResultT]):
    """One call that runs on a thread of its own from now on.

    The thread is a daemon: a run that must stop does not wait for a judge's answer.

    Args:
        call: the work.
    """

    def __init__(self, call: Callable[[], ResultT]) -> None:
        self._call = call
        self._results: list[ResultT] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="judging", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def result(self) -> ResultT:
        """Wait for the call and return its result, or raise its error. Raises :class:`StopRequested` while it waits."""
        while self._thread.is_alive():
            interruption.check()
            self._thread.join(_POLL_INTERVAL_S)
        if self._error is not None:
            raise self._error
        return self._results[0]


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """Drafts that lack only the findings of judges in the background, and the reward."""

    drafts: Sequence[Draft]
    verdicts: Sequence[Verdict] | None
    """On all answers of all exams, in order; None where the grader works in the background."""
    ratings: Mapping[str, Sequence[Rating]]
    """By rater, one per draft that did not fail; raters that work in the background are missing."""
    seconds: float = 0.0
    """Time of the judges so far, all drafts together."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Queries judges and turns drafts into attempts."""

    domain: AnyDomain
    grader: Grader
    reward: Reward

    @property
    def in_background(self) -> bool:
        """True where :meth:`finish` waits for a server, so that it is worth a thread."""
        needs = [self.reward.needs, *(examiner.needs for examiner in self.reward.exam_builders.values())]
        graded = any(Measurement.ANSWERS in one for one in needs)
        return (graded and self.grader.in_background) or any(r.in_background for r in self.reward.raters.values())

    def begin(self, drafts: Sequence[Draft]) -> Unjudged:
        """Query the judges that compute on the same device as the model: they cannot run beside it."""
        start = time.perf_counter()
        verdicts = None if self.grader.in_background else self._verdicts(drafts)
        raters = {name: rater for name, rater in self.reward.raters.items() if not rater.in_background}
        ratings = self._ratings(drafts, raters)
        return Unjudged(drafts=drafts, verdicts=verdicts, ratings=ratings, seconds=time.perf_counter() - start)

    def finish(self, unjudged: Unjudged) -> list[Attempt]:
        """Query the other judges and compute the rewards; return one attempt per draft, in order. Any thread may call it."""
        start = time.perf_counter()
        verdicts = iter(self._verdicts(unjudged.drafts) if unjudged.verdicts is None else unjudged.verdicts)
        raters = {name: rater for name, rater in self.reward.raters.items() if name not in unjudged.ratings}
        found = {**unjudged.ratings, **self._ratings(unjudged.drafts, raters)}
        ratings = {name: iter(found[name]) for name in self.reward.raters}
        num_open = sum(not draft.failed for draft in unjudged.drafts)
        seconds = (unjudged.seconds + time.perf_counter() - start) / max(num_open, 1)
        attempts = []
        for draft in unjudged.drafts:
            if draft.failed:
                attempts.append(draft.attempt)
                continue
            attempt = draft.with_scores([[next(verdicts) for _ in exam.answered] for exam in draft.exams])
            of_draft = {name: next(of_rater) for name, of_rater in ratings.items()}
            attempt = replace(attempt, ratings=of_draft, examine_seconds=attempt.examine_seconds + seconds)
            attempts.append(self._with_reward(attempt))
        return attempts

    def _verdicts(self, drafts: Sequence[Draft]) -> Sequence[Verdict]:
        return grade_answers([a for draft in drafts for exam in draft.exams for a in exam.answered], self.grader)

    def _ratings(self, drafts: Sequence[Draft], raters: Mapping[str, Rater]) -> dict[str, Sequence[Rating]]:
        """Return ratings by rater; equal edits are rated once, however often they are tried."""
        if not raters:
            return {}
        wanted = [
            (self.domain.context_text(draft.task), draft.attempt.edit.text) for draft in drafts if not draft.failed
        ]
        unique = list(dict.fromkeys(wanted))
        found: dict[str, Sequence[Rating]] = {}
        for name, rater in raters.items():
            ratings = rater.rate([context for context, _ in unique], [edit for _, edit in unique]) if unique else []
            if len(ratings) != len(unique):
                raise RunError(
                    f"model.reward: {type(rater).__name__} must return one rating per edit, in order; it returned "
                    f"{len(ratings)} for {len(unique)} edits. Stored attempts are kept"
                )
            by_edit = dict(zip(unique, ratings, strict=True))
            found[name] = [by_edit[one] for one in wanted]
        return found

    def _with_reward(self, attempt: Attempt) -> Attempt:
        found = self.reward.score(attempt)
        score = finite_score(found.value, found.breakdown)
        attempt = replace(attempt, reward=score.value, reward_breakdown=score.breakdown)
        if score.value is not None:
            return attempt
        return replace(attempt, status=AttemptStatus.UNSCORED, failure=found.reason)
