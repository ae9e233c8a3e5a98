"""Reward filters: whom they keep, and that the paper's filter keeps what the released selection kept."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.callbacks import AboveThreshold, BestOfK, Improves, RewardFilter, TopFraction
from seal_lightning.core import Attempt, AttemptStatus, Candidate, SelfEdit
from seal_lightning.core.errors import ConfigError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "selection.json"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def candidate(
    task: str, index: int, *rewards: float | None, status: AttemptStatus = AttemptStatus.SCORED, before: float = 0.0
) -> Candidate:
    edit = SelfEdit(task_id=task, edit_index=index, text=f"{task}/{index}")
    attempts = tuple(
        Attempt(
            attempt_id=f"{task}-{index}-{repeat}",
            round=0,
            repeat=repeat,
            seed=0,
            edit=edit,
            status=status,
            reward=reward,
            reward_breakdown={} if reward is None else {"after": reward, "before": before},
        )
        for repeat, reward in enumerate(rewards)
    )
    return Candidate(task_id=task, edit_index=index, attempts=attempts)


def kept(chosen_by: RewardFilter, candidates: list[Candidate]) -> list[tuple[str, int]]:
    return [(c.task_id, c.edit_index) for c in chosen_by.select(candidates)]


TASKS = [
    candidate("b", 0, 0.2),
    candidate("b", 1, 0.6),
    candidate("b", 2, 0.6),
    candidate("a", 0, 0.9),
    candidate("a", 1, 0.1),
]


@pytest.mark.parametrize(
    ("chosen_by", "expected"),
    [
        (BestOfK(1), [("b", 1), ("a", 0)]),
        (BestOfK(2), [("b", 1), ("b", 2), ("a", 0), ("a", 1)]),
        (TopFraction(0.2), [("a", 0)]),
        (TopFraction(0.6), [("b", 1), ("b", 2), ("a", 0)]),
        (TopFraction(0.01), [("a", 0)]),
        (TopFraction(1.0), [("b", 1), ("b", 2), ("b", 0), ("a", 0), ("a", 1)]),
        (AboveThreshold(0.6), [("a", 0)]),
        (AboveThreshold(0.5), [("b", 1), ("b", 2), ("a", 0)]),
        (AboveThreshold(1.0), []),
        (Improves(1), [("b", 1), ("a", 0)]),
        (Improves(2, margin=0.15), [("b", 1), ("b", 2), ("a", 0)]),
        (Improves(1, margin=0.7), [("a", 0)]),
    ],
)
def test_filters_keep_the_expected_edits(chosen_by: RewardFilter, expected: list[tuple[str, int]]) -> None:
    assert kept(chosen_by, TASKS) == expected


def test_improves_compares_with_the_tasks_own_score() -> None:
    assert kept(Improves(1), [candidate("a", 0, -3.0, before=-4.0), candidate("b", 0, -1.0, before=-0.5)]) == [("a", 0)]


def test_filters_rank_by_the_mean_over_repeats() -> None:
    assert kept(BestOfK(1), [candidate("a", 0, 0.9, 0.1), candidate("a", 1, 0.6, 0.6)]) == [("a", 1)]


def test_filters_skip_unscored_repeats() -> None:
    assert kept(BestOfK(1), [candidate("a", 0, 0.7, None), candidate("a", 1, 0.6, 0.6)]) == [("a", 0)]


@pytest.mark.parametrize("status", [AttemptStatus.MALFORMED, AttemptStatus.DIVERGED])
def test_filters_drop_edits_with_a_failed_repeat(status: AttemptStatus) -> None:
    failed = candidate("a", 0, None, status=status).attempts[0]
    best = candidate("a", 0, 0.9, 0.9)
    mixed = replace(best, attempts=(*best.attempts, failed))
    assert kept(BestOfK(1), [best, candidate("a", 1, 0.1)]) == [("a", 0)]
    assert kept(BestOfK(1), [mixed, candidate("a", 1, 0.1)]) == [("a", 1)]


def test_filters_drop_rewards_that_are_not_finite() -> None:
    odd = [candidate("a", i, reward) for i, reward in enumerate((math.nan, math.inf, -math.inf, 0.0))]
    assert kept(BestOfK(4), odd) == [("a", 3)]
    assert kept(TopFraction(1.0), odd) == [("a", 3)]


def test_filters_break_ties_by_edit_index() -> None:
    tied = [candidate("a", i, 0.3) for i in (2, 0, 1)]
    assert kept(BestOfK(1), tied) == [("a", 0)]
    assert kept(BestOfK(2), tied) == [("a", 0), ("a", 1)]


def test_improves_skips_rewards_without_a_gain() -> None:
    silent = candidate("a", 0, 0.9)
    silent = replace(silent, attempts=(replace(silent.attempts[0], reward_breakdown={"after": 0.9}),))
    assert kept(Improves(2), [silent, candidate("a", 1, 0.1)]) == [("a", 1)]


@pytest.mark.parametrize("chosen_by", [BestOfK(3), TopFraction(1.0), AboveThreshold(-9.0), Improves(3)])
def test_filters_keep_nothing_failed_or_unscored(chosen_by: RewardFilter) -> None:
    failed = [
        candidate("a", 0, None, status=AttemptStatus.MALFORMED),
        candidate("a", 1, None, status=AttemptStatus.DIVERGED),
        candidate("a", 2, None, status=AttemptStatus.UNSCORED),
    ]
    assert kept(chosen_by, failed) == []
    assert kept(chosen_by, [*failed, candidate("a", 3, 0.5)]) == [("a", 3)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: BestOfK(0),
        lambda: TopFraction(0.0),
        lambda: TopFraction(1.1),
        lambda: AboveThreshold(float("nan")),
        lambda: Improves(0),
        lambda: Improves(1, margin=-1.0),
    ],
)
def test_filters_check_their_settings(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def chosen_indices(means: list[list[float]]) -> list[int]:
    candidates = [candidate(f"{t:03}", i, mean) for t, row in enumerate(means) for i, mean in enumerate(row)]
    return [c.edit_index for c in BestOfK(1).select(candidates)]


def test_best_of_one_on_the_released_means() -> None:
    """Numbers of the released selection: the mean reward of 50 passages' 5 edits, and which edit was selected."""
    golden = json.loads(GOLDEN.read_text())
    assert len(golden["means"]) == 50
    assert sum(row.count(max(row)) > 1 for row in golden["means"]) >= 10  # ties are common
    assert chosen_indices(golden["means"]) == golden["chosen"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the released selections lie beside the repository only")
@pytest.mark.parametrize("file", sorted(SHARED.glob("selection_rank_*.json")), ids=lambda path: path.stem)
def test_best_of_one_picks_the_released_edits(file: Path) -> None:
    released = json.loads(file.read_text())
    means = [[c["adapter_mean"] for c in article["candidates"]] for article in released["articles"]]
    texts = [
        article["candidates"][index]["text"]
        for article, index in zip(released["articles"], chosen_indices(means), strict=True)
    ]
    assert texts == released["selected"]
