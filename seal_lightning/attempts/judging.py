"""The second half of trying an edit: judges are asked, and the reward is made. It needs no model of ours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from seal_lightning.attempts.auxiliary_exams import joined_scores
from seal_lightning.attempts.exam_runner import SatExam, verdicts_on
from seal_lightning.core import Attempt, AttemptStatus, AuxiliaryExam, ExamPaper, Rating, Task, Verdict
from seal_lightning.core.errors import RunError
from seal_lightning.core.interfaces import AnyDomain, Grader, Rater, Reward
from seal_lightning.scoring.rewards.finite import finite_score


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An attempt as the model left it."""

    attempt: Attempt
    task: Task
    settled: bool = False
    """Whether there is nothing to judge: it failed."""
    own: SatExam | None = None
    """The task's own exam, where it was sat."""
    further: Mapping[str, tuple[ExamPaper, Sequence[SatExam]]] = field(default_factory=dict)

    @property
    def exams(self) -> list[SatExam]:
        """All of them, in one order."""
        return [*([self.own] if self.own is not None else ()), *(e for _, sat in self.further.values() for e in sat)]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """Some attempts that lack only what a judge in the background says, and the reward."""

    drafts: Sequence[Draft]
    verdicts: Sequence[Verdict] | None
    """On all answers of all exams, in order; None where they are still to be asked for."""
    ratings: Mapping[str, Sequence[Rating]]
    """By rater, one a draft that is not settled; of those that are still to be asked there are none."""
    seconds: float = 0.0
    """That judges took, all drafts together."""


class Judging:
    """Asks judges, and makes attempts of drafts.

    Args:
        domain: says what an edit is about.
        grader: judges answers.
        reward: says who rates edits, and makes the reward.
    """

    def __init__(self, domain: AnyDomain, grader: Grader, reward: Reward) -> None:
        self.domain = domain
        self.grader = grader
        self.reward = reward

    def computed(self, drafts: Sequence[Draft]) -> Computed:
        """Ask those who must be asked now, because they compute on what the model computes on."""
        start = time.perf_counter()
        verdicts = None if self.grader.in_background else self._verdicts(drafts)
        raters = {name: rater for name, rater in self.reward.raters.items() if not rater.in_background}
        ratings = self._ratings(drafts, raters)
        return Computed(drafts=drafts, verdicts=verdicts, ratings=ratings, seconds=time.perf_counter() - start)

    def attempts(self, computed: Computed) -> list[Attempt]:
        """Ask the others, and make the rewards: one attempt a draft, in order."""
        start = time.perf_counter()
        verdicts = iter(self._verdicts(computed.drafts) if computed.verdicts is None else computed.verdicts)
        raters = {name: rater for name, rater in self.reward.raters.items() if name not in computed.ratings}
        given = {**computed.ratings, **self._ratings(computed.drafts, raters)}
        ratings = {name: iter(given[name]) for name in self.reward.raters}
        num_open = sum(not draft.settled for draft in computed.drafts)
        seconds = (computed.seconds + time.perf_counter() - start) / max(num_open, 1)
        attempts = []
        for draft in computed.drafts:
            if draft.settled:
                attempts.append(draft.attempt)
                continue
            judged = _with_scores(draft, [[next(verdicts) for _ in exam.answered] for exam in draft.exams])
            marks = {name: next(of_rater) for name, of_rater in ratings.items()}
            attempts.append(
                self._rewarded(replace(judged, ratings=marks, examine_seconds=judged.examine_seconds + seconds))
            )
        return attempts

    def _verdicts(self, drafts: Sequence[Draft]) -> Sequence[Verdict]:
        return verdicts_on([a for draft in drafts for exam in draft.exams for a in exam.answered], self.grader)

    def _ratings(self, drafts: Sequence[Draft], raters: Mapping[str, Rater]) -> dict[str, Sequence[Rating]]:
        """By rater; the same edit is rated once, however often it is tried."""
        asked = [
            (self.domain.context_text(draft.task), draft.attempt.edit.text) for draft in drafts if not draft.settled
        ]
        once = list(dict.fromkeys(asked))
        found: dict[str, Sequence[Rating]] = {}
        for name, rater in raters.items():
            ratings = rater.rate([context for context, _ in once], [edit for _, edit in once]) if once else []
            if len(ratings) != len(once):
                raise RunError(
                    f"model.reward: {type(rater).__name__} gave {len(ratings)} ratings of {len(once)} edits; it must give "
                    "one an edit, in order. Attempts are kept"
                )
            by_edit = dict(zip(once, ratings, strict=True))
            found[name] = [by_edit[one] for one in asked]
        return found

    def _rewarded(self, attempt: Attempt) -> Attempt:
        given = self.reward.score(attempt)
        score = finite_score(given.value, given.breakdown)
        attempt = replace(attempt, reward=score.value, reward_breakdown=score.breakdown)
        if score.value is not None:
            return attempt
        return replace(attempt, status=AttemptStatus.UNSCORED, failure=given.reason)


def _with_scores(draft: Draft, verdicts: Sequence[Sequence[Verdict]]) -> Attempt:
    """The attempt with what it scored; ``verdicts`` are by exam."""
    scores = iter([exam.scores(given) for exam, given in zip(draft.exams, verdicts, strict=True)])
    attempt = draft.attempt
    if draft.own is not None:
        attempt = replace(attempt, after=next(scores))
    further: dict[str, AuxiliaryExam] = dict(attempt.auxiliary_exams)
    for name, (paper, sat) in draft.further.items():
        further[name] = replace(further[name], after=joined_scores(paper, [next(scores) for _ in sat]))
    return replace(attempt, auxiliary_exams=further)
