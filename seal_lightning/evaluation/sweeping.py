"""A sweep: given edits tried under many settings of the inner loop, and how the settings compare.

Every setting meets the same edits with the same inner seeds, so that settings are compared in pairs, task by task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import (
    AdaptationPlan,
    Attempt,
    AttemptStatus,
    SelfEdit,
    Task,
    Trial,
)
from seal_lightning.core.estimates import Estimate, estimate
from seal_lightning.core.interfaces import Reward
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.sweep_grid import Setting
from seal_lightning.storage.attempt_store import AttemptStore

_FAILED = (AttemptStatus.DIVERGED, AttemptStatus.MALFORMED)


@dataclass(frozen=True, kw_only=True)
class GivenEdit:
    """An edit that is tried under every setting, with the plan that it means without any."""

    task: Task
    edit: SelfEdit
    plan: AdaptationPlan


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """An edit that is to be tried once under one setting."""

    setting: Setting
    trial: Trial


def sweep_trials(
    given: Sequence[GivenEdit],
    settings: Sequence[Setting],
    num_seeds: int,
    seed: int,
    round_index: int,
    kind: str,
    circumstances: Mapping[str, str],
) -> list[SweepTrial]:
    """Every edit ``num_seeds`` times under every setting; the inner seed is the same under all settings.

    ``kind`` (the score, whose edits) and each task's ``circumstances`` (what is asked, of which policy) are what else
    distinguishes these trials: sweeps of several kinds are stored together.
    """
    trials = []
    for one in given:
        task_id, index = one.task.task_id, one.edit.edit_index
        for repeat in range(num_seeds):
            inner_seed = derive_seed(seed, "sweep", task_id, index, repeat)
            for setting in settings:
                # Its tokens are for an M-step; thousands of copies would fill the journal.
                edit = replace(one.edit, token_ids=(), chosen=None)
                plan = setting.applied(one.plan)

                what = f"{kind}-r{round_index}-{circumstances[task_id]}"
                trial = Trial(
                    task=one.task,
                    edit=edit,
                    round=round_index,
                    repeat=repeat,
                    seed=inner_seed,
                    plan=plan,
                    custom_id=f"sweep-{what}-{task_id}-e{index}-s{repeat}-{setting.name}",
                )
                trials.append(SweepTrial(setting=setting, trial=trial))
    return trials


def try_out(
    runner: AttemptRunner,
    store: AttemptStore,
    trials: Sequence[SweepTrial],
    at_once: int,
    on_attempt: Callable[[Attempt], None],
) -> None:
    """Try and store what is not stored, ``at_once`` candidates of whatever setting in one call of the inner loop."""
    every = [one.trial for one in trials]
    runner.run(every, store, candidates_per_call=at_once, on_attempt=on_attempt, only_missing=True)


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """How one setting did."""

    setting: Setting
    score: Estimate | None
    """Mean over tasks of the mean over their edits and inner seeds; None when nothing was scored."""
    by_task: Mapping[str, float]
    num_edits: int
    """Edits of all tasks together."""
    num_failed: int
    """Candidates that diverged; they count with the score without adaptation."""
    num_unscored: int
    """Candidates that could not be scored; left out."""
    num_tokens: float | None
    """Trained on, mean a candidate that did not fail."""
    seconds: float
    """Of adapting, mean a candidate; where candidates were trained together, by their share of the tokens."""
    is_best: bool = False
    difference: Estimate | None = None
    """From the best setting, paired by task."""
    within_noise: bool | None = None
    """See :func:`is_within_noise`."""


def setting_rows(
    settings: Sequence[Setting], trials: Sequence[SweepTrial], store: AttemptStore, reward: Reward
) -> list[SettingRow]:
    """One row a setting, the best first; of equals the cheaper one."""
    found: dict[str, list[Attempt]] = {}
    for one in trials:
        attempt = store.get(one.trial.attempt_id)
        assert attempt is not None, "all trials were made"
        found.setdefault(one.setting.name, []).append(attempt)
    rows = [_row(setting, found[setting.name], reward) for setting in settings]
    rows.sort(key=lambda row: (row.score is None, -row.score.mean if row.score else 0.0, row.num_tokens or 0.0))
    return [_compared(row, rows[0]) for row in rows]


def unadapted_scores(trials: Sequence[SweepTrial], store: AttemptStore, reward: Reward) -> dict[str, float]:
    """By task, the score without adaptation."""
    attempts = {one.trial.task.task_id: store.get(one.trial.attempt_id) for one in trials}
    scores = {task_id: _unadapted(a, reward) for task_id, a in attempts.items() if a is not None}
    return {task_id: score for task_id, score in scores.items() if score is not None}


def paired(scores: Mapping[str, float], others: Mapping[str, float]) -> Estimate | None:
    """How much higher the scores are, over the tasks that both have."""
    return estimate([scores[task_id] - others[task_id] for task_id in scores if task_id in others])


_T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
)
"""Student's t, two-sided 5 %, for 1, 2 … degrees of freedom."""


def cheapest_within_noise(rows: Sequence[SettingRow]) -> SettingRow:
    """The row with the fewest tokens among the best one and those that cannot be told from it."""
    alike = [row for row in rows if row.is_best or (row.within_noise and row.num_tokens is not None)]
    return min(alike, key=lambda row: row.num_tokens or 0.0)


def is_within_noise(difference: Estimate | None) -> bool | None:
    """Whether 0 is in the difference's 95 % interval (Student's t); None where one task gives no standard error."""
    if difference is None or difference.standard_error is None:
        return None
    critical = _T95[min(difference.n - 2, len(_T95) - 1)]
    return difference.mean == 0 or abs(difference.mean) < critical * difference.standard_error


def _compared(row: SettingRow, best: SettingRow) -> SettingRow:
    if row is best:
        return replace(row, is_best=True)
    difference = paired(row.by_task, best.by_task)
    return replace(row, difference=difference, within_noise=is_within_noise(difference))


def _row(setting: Setting, attempts: Sequence[Attempt], reward: Reward) -> SettingRow:
    scores: dict[str, list[float]] = {}
    for attempt in attempts:
        score = _unadapted(attempt, reward) if attempt.status in _FAILED else attempt.reward
        if score is not None:
            scores.setdefault(attempt.task_id, []).append(score)
    by_task = {task_id: sum(of_task) / len(of_task) for task_id, of_task in scores.items()}
    trained = [a.plan.num_tokens for a in attempts if a.plan is not None and a.status not in _FAILED]
    return SettingRow(
        setting=setting,
        score=estimate(list(by_task.values())),
        by_task=by_task,
        num_edits=len({(a.task_id, a.edit.edit_index) for a in attempts}),
        num_failed=sum(a.status in _FAILED for a in attempts),
        num_unscored=sum(a.status is AttemptStatus.UNSCORED for a in attempts),
        num_tokens=sum(trained) / len(trained) if trained else None,
        seconds=sum(a.adapt_seconds for a in attempts) / len(attempts),
    )


def _unadapted(attempt: Attempt, reward: Reward) -> float | None:
    """What an attempt would have got had it learned nothing."""
    return reward.score(attempt.unadapted).value
