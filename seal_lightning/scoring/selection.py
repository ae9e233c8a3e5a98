"""Selection of self-edits by reward: the E-step's filter of ReST-EM (§3.1). Linear in the number of edits, but for a sort."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from seal_lightning.core import Attempt, Candidate, Task


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates with a finite reward, best first; ties go to the lowest edit index.

    An edit that was malformed, diverged or unscored has no finite reward.
    """
    eligible = [(c, reward) for c in candidates if (reward := c.reward) is not None and math.isfinite(reward)]
    return [c for c, reward in sorted(eligible, key=lambda pair: (-pair[1], pair[0].edit_index))]


def first_per_task(candidates: Sequence[Candidate], k: int) -> list[Candidate]:
    """Return the first ``k`` ≥ 0 candidates of each task, in order."""
    seen: Counter[str] = Counter()
    first = []
    for candidate in candidates:
        if seen[candidate.task_id] < k:
            first.append(candidate)
        seen[candidate.task_id] += 1
    return first


def in_task_order(selected: Iterable[Candidate], candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the selected candidates grouped by task, tasks in the order of ``candidates``."""
    by_task: dict[str, list[Candidate]] = {candidate.task_id: [] for candidate in candidates}
    for candidate in selected:
        by_task[candidate.task_id].append(candidate)
    return [candidate for of_task in by_task.values() for candidate in of_task]


def best_of_k(candidates: Sequence[Candidate], k: int) -> list[Candidate]:
    """Return the best ``k`` candidates of each task, task by task, best first; the paper's filter has k = 1."""
    return in_task_order(first_per_task(ranked(candidates), k), candidates)


def mean_gain(candidate: Candidate) -> float | None:
    """Return the mean over the repeats of after − before; None where no reward reports both."""
    gains = [
        a.reward_breakdown["after"] - a.reward_breakdown["before"]
        for a in candidate.attempts
        if {"after", "before"} <= a.reward_breakdown.keys()
    ]
    return sum(gains) / len(gains) if gains else None


def group_candidates(attempts: Iterable[Attempt], tasks: Sequence[Task]) -> list[Candidate]:
    """Return attempts grouped by edit, in the order of the tasks and of the edits; of other tasks none."""
    by_edit: dict[tuple[str, int], dict[str, Attempt]] = {}
    for attempt in attempts:
        by_edit.setdefault((attempt.task_id, attempt.edit.edit_index), {}).setdefault(attempt.attempt_id, attempt)
    order = {task.task_id: i for i, task in enumerate(tasks)}
    known = sorted((key for key in by_edit if key[0] in order), key=lambda key: (order[key[0]], key[1]))
    return [
        Candidate(task_id=t, edit_index=e, attempts=tuple(sorted(by_edit[t, e].values(), key=lambda a: a.repeat)))
        for t, e in known
    ]
