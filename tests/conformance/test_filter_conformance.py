"""What every reward filter must do; a new one needs a line in ``FILTERS``."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from implementations import implementations

from seal_lightning.callbacks import AboveThreshold, BestOfK, FunctionFilter, Improves, RewardFilter, TopFraction
from seal_lightning.core import Attempt, AttemptStatus, Candidate, SelfEdit

FILTERS: dict[str, Callable[[], RewardFilter]] = {
    "best of k": BestOfK,
    "best two of k": lambda: BestOfK(k=2),
    "all of k": lambda: BestOfK(k=99),
    "top fraction": lambda: TopFraction(fraction=0.5),
    "top, all": lambda: TopFraction(fraction=1.0),
    "above a threshold": lambda: AboveThreshold(threshold=0.4),
    "above a low threshold": lambda: AboveThreshold(threshold=-1e9),
    "improves": Improves,
    "improves, three": lambda: Improves(k=3, margin=0.1),
    "a function": lambda: FunctionFilter(lambda ranked: ranked[:3]),
}
SCORED, UNSCORED = AttemptStatus.SCORED, AttemptStatus.UNSCORED
MALFORMED, DIVERGED = AttemptStatus.MALFORMED, AttemptStatus.DIVERGED


def test_every_filter_of_the_package_is_held_to_this() -> None:
    found = implementations(RewardFilter)
    assert found
    missing = found - {type(make()) for make in FILTERS.values()}
    assert not missing, f"add a line to FILTERS for {sorted(kind.__qualname__ for kind in missing)}"


@pytest.fixture(params=FILTERS)
def reward_filter(request: pytest.FixtureRequest) -> RewardFilter:
    return FILTERS[request.param]()


def candidate(task: str, index: int, *repeats: tuple[AttemptStatus, float | None], before: float = 0.0) -> Candidate:
    edit = SelfEdit(task_id=task, edit_index=index, text=f"{task}, {index}")
    attempts = tuple(
        Attempt(
            attempt_id=f"r0-{task}-e{index}-s{repeat}",
            round=0,
            repeat=repeat,
            seed=repeat,
            edit=edit,
            status=status,
            reward=reward,
            reward_breakdown={} if reward is None else {"after": reward, "before": before},
        )
        for repeat, (status, reward) in enumerate(repeats)
    )
    return Candidate(task_id=task, edit_index=index, attempts=attempts)


FAILED = [
    candidate("b", 0, (MALFORMED, None)),
    candidate("b", 1, (DIVERGED, None), (SCORED, 9.0)),  # one repeat diverged: not worth imitating
    candidate("b", 2, (SCORED, 9.0), (MALFORMED, None)),
    candidate("b", 3, (UNSCORED, None), (UNSCORED, None)),
    candidate("none", 0, (UNSCORED, None)),
    candidate("none", 1, (DIVERGED, None)),
]
GOOD = [
    candidate("b", 4, (SCORED, 0.6), (UNSCORED, None)),
    candidate("b", 5, (SCORED, 0.8), (SCORED, 0.8)),
    candidate("b", 6, (SCORED, 0.8), (SCORED, 0.8)),
    candidate("b", 7, (SCORED, 0.8), (SCORED, 0.8)),
    candidate("a", 0, (SCORED, 0.5), before=0.4),
    candidate("a", 1, (SCORED, 0.9), before=0.4),
    candidate("a", 2, (SCORED, 0.5), before=0.4),
    candidate("a", 3, (SCORED, 0.9), before=0.4),
    candidate("c", 0, (SCORED, -2.0), before=-3.0),
    candidate("c", 1, (SCORED, -1.0), before=-3.0),
    candidate("c", 2, (SCORED, -1.0), before=-3.0),
    candidate("c", 3, (SCORED, -4.0), before=-3.0),
]
TASK_ORDER = ["b", "none", "a", "c"]
CANDIDATES = sorted([*FAILED, *GOOD], key=lambda c: TASK_ORDER.index(c.task_id))


def names(candidates: list[Candidate]) -> list[tuple[str, int]]:
    return [(c.task_id, c.edit_index) for c in candidates]


def test_nothing_given_nothing_kept(reward_filter: RewardFilter) -> None:
    assert reward_filter.select([]) == []


def test_what_is_kept_was_given_and_is_kept_once(reward_filter: RewardFilter) -> None:
    kept = reward_filter.select(CANDIDATES)
    assert kept
    assert all(any(one is given for given in CANDIDATES) for one in kept)
    assert len(set(names(kept))) == len(kept)


def test_nothing_failed_or_unscored_is_kept(reward_filter: RewardFilter) -> None:
    """However few are left, and though some repeats of theirs had the best reward of all."""
    kept = reward_filter.select(CANDIDATES)
    assert not set(names(kept)) & set(names(FAILED))
    assert reward_filter.select(FAILED) == []
    for one in FAILED:
        assert reward_filter.select([one]) == []


def test_failed_neighbours_change_nothing(reward_filter: RewardFilter) -> None:
    without = [one for one in CANDIDATES if one in GOOD]
    assert names(reward_filter.select(without)) == names(reward_filter.select(CANDIDATES))


def test_tasks_stay_in_the_order_given(reward_filter: RewardFilter) -> None:
    for order in (TASK_ORDER, TASK_ORDER[::-1], ["a", "none", "c", "b"]):
        given = sorted(CANDIDATES, key=lambda c: order.index(c.task_id))
        kept = [one.task_id for one in reward_filter.select(given)]
        assert kept == sorted(kept, key=order.index)
        assert len(set(kept)) > 1


def test_better_ones_come_first_and_ties_go_to_the_lowest_index(reward_filter: RewardFilter) -> None:
    kept = reward_filter.select(CANDIDATES)
    for task in TASK_ORDER:
        ours = [one for one in kept if one.task_id == task]
        assert ours == sorted(ours, key=lambda c: (-(c.reward or 0.0), c.edit_index))
        for one in ours:  # whoever equals it and has a lower index is kept too
            equals = [c for c in GOOD if c.task_id == task and c.reward == one.reward and c.edit_index < one.edit_index]
            assert all(c in ours for c in equals)


def test_the_order_within_a_task_does_not_matter(reward_filter: RewardFilter) -> None:
    expected = names(reward_filter.select(CANDIDATES))
    for seed in range(10):
        shuffled = random.Random(seed).sample(CANDIDATES, len(CANDIDATES))
        shuffled.sort(key=lambda c: TASK_ORDER.index(c.task_id))
        assert names(reward_filter.select(shuffled)) == expected


def test_selecting_leaves_the_candidates_alone(reward_filter: RewardFilter) -> None:
    given = list(CANDIDATES)
    reward_filter.select(given)
    assert all(now is then for now, then in zip(given, CANDIDATES, strict=True))
