"""What ``seal search`` found: which configurations solve, which earn most over all tasks, how likely policies choose them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from seal_lightning.core import Attempt, Task
from seal_lightning.core.estimates import Estimate, estimate, shown_estimate
from seal_lightning.evaluation.configurations import Configuration, is_solved, probability_of_solving

_MIN_WIDTH = 120
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A task's configurations, how each ended, and how likely the policy of each round is to choose it."""

    task: Task
    configurations: list[Configuration]
    attempts: list[Attempt]
    log_probs: list[Sequence[float]]
    """By round, nats."""

    @property
    def is_examined(self) -> bool:
        """Whether answers were graded, so that it can be said what solves."""
        return any(a.after is not None and a.after.solved is not None for a in self.attempts)

    @property
    def is_solved(self) -> bool:
        """Whether any configuration solves."""
        return any(map(is_solved, self.attempts))

    def probability_tried(self, round_index: int) -> float:
        """Of all that was tried: the policy may choose other configurations too."""
        return sum(map(math.exp, self.log_probs[round_index]))

    def probability_of_solving(self, round_index: int) -> float:
        """Of the probability on what was tried."""
        return probability_of_solving(self.attempts, self.log_probs[round_index])


@dataclass(frozen=True, kw_only=True)
class FixedSetting:
    """One configuration on all tasks."""

    choices: dict[str, str]
    reward: Estimate | None
    """Mean over the tasks on which it was scored; None of none."""
    num_failed: int
    """Tasks on which it was malformed, diverged or unscored."""
    behind_best: Estimate | None = None
    """Its reward minus that of the best setting, task by task; None of the best one, and where one failed."""

    def content(self) -> dict[str, Any]:
        """As JSON."""
        reward, behind = self.reward, self.behind_best
        return {
            "choices": self.choices,
            "num_tasks": 0 if reward is None else reward.n,
            "num_failed": self.num_failed,
            "mean_reward": None if reward is None else reward.mean,
            "standard_error": None if reward is None else reward.standard_error,
            "minus_best": None if behind is None else behind.mean,
            "minus_best_standard_error": None if behind is None else behind.standard_error,
        }


def best_settings(tried: Sequence[Tried]) -> list[FixedSetting]:
    """The configurations that were tried on every task: the best mean reward first, those that failed on any task last.

    The best of many is also the luckiest: its mean is biased upwards, so hold it against others on tasks not searched.
    """
    rewards: dict[tuple[tuple[str, str], ...], list[float | None]] = {}
    for one in tried:
        for configuration, attempt in zip(one.configurations, one.attempts, strict=True):
            rewards.setdefault(tuple(configuration.choices.items()), []).append(attempt.reward)
    everywhere = {choices: found for choices, found in rewards.items() if len(found) == len(tried)}
    means = {choices: estimate([r for r in found if r is not None]) for choices, found in everywhere.items()}
    failed = {choices: found.count(None) for choices, found in everywhere.items()}
    order = sorted(everywhere, key=lambda c: (failed[c], -mean.mean if (mean := means[c]) is not None else 0.0))
    return [
        FixedSetting(
            choices=dict(choices),
            reward=means[choices],
            num_failed=failed[choices],
            behind_best=None if choices == order[0] else _behind(everywhere[choices], everywhere[order[0]]),
        )
        for choices in order
    ]


def _behind(rewards: Sequence[float | None], best: Sequence[float | None]) -> Estimate | None:
    pairs = [(a, b) for a, b in zip(rewards, best, strict=True) if a is not None and b is not None]
    return estimate([a - b for a, b in pairs]) if len(pairs) == len(best) else None


def content(one: Tried) -> dict[str, Any]:
    """A task's configurations as JSON."""
    rounds = range(len(one.log_probs))
    return {
        "solved": one.is_solved if one.is_examined else None,
        "probability_of_solving_among_tried_by_round": [
            one.probability_of_solving(r) if one.is_examined else None for r in rounds
        ],
        "probability_tried_by_round": [one.probability_tried(r) for r in rounds],
        "configurations": [
            {
                "choices": c.choices,
                "status": a.status.value,
                "solved": is_solved(a) if one.is_examined else None,
                "reward": a.reward,
                "policy_log_prob_by_round": [of_round[i] for of_round in one.log_probs],
            }
            | ({"failure": a.failure} if a.failure else {})
            | ({"log_prob": a.after.log_prob, "cells_right": a.after.partial_credit} if a.after else {})
            for i, (c, a) in enumerate(zip(one.configurations, one.attempts, strict=True))
        ],
    }


def show(tried: Sequence[Tried], best: Sequence[FixedSetting]) -> None:
    """Print what was found."""
    wide = Console(width=max(Console().width, _MIN_WIDTH))  # a log file would get 80 columns
    if any(one.is_examined for one in tried):
        _show_solved(tried, wide)
    if best:
        _show_best(best, len(tried), wide)


def _show_best(best: Sequence[FixedSetting], num_tasks: int, wide: Console) -> None:
    table = Table(title=f"One setting for all tasks: mean reward over {num_tasks} tasks, the best of {len(best)}")
    names = list(best[0].choices)
    for heading in (*names, "reward", "minus the best", "failed"):
        table.add_column(heading, justify="right")
    for setting in best[:_MOST_SHOWN]:
        options = [setting.choices[name].strip() for name in names]
        behind = "–" if setting.behind_best is None else shown_estimate(setting.behind_best)
        table.add_row(*options, shown_estimate(setting.reward), behind, str(setting.num_failed))
    wide.print(table)
    if (with_failures := sum(setting.num_failed > 0 for setting in best)) > 0:
        wide.print(f"{with_failures} of {len(best)} settings failed on at least one task; they stand behind all others")


def _show_solved(tried: Sequence[Tried], wide: Console) -> None:
    table = Table(
        title="Configurations tried on the pretrained model; of those tried, the policy's probability of ones that solve"
    )
    rounds = range(len(tried[0].log_probs))
    headings = ["before training", *(f"after round {r}" for r in rounds[1:])]
    for heading in ("task", "tried", "solve", "failed", "best log-prob", *headings):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for one in tried:
        log_probs = [a.after.log_prob for a in one.attempts if a.after is not None and a.after.log_prob is not None]
        table.add_row(
            one.task.task_id,
            str(len(one.attempts)),
            str(sum(map(is_solved, one.attempts))),
            str(sum(a.after is None for a in one.attempts)),
            f"{max(log_probs):.3f}" if log_probs else "–",
            *(f"{one.probability_of_solving(r):.3f}" for r in rounds),
        )
    solvable = [one for one in tried if one.is_solved]
    table.add_section()
    means = [estimate([one.probability_of_solving(r) for one in solvable]) for r in rounds]
    table.add_row(f"mean of {len(solvable)} solvable", "", "", "", "", *map(shown_estimate, means))
    masses = [estimate([one.probability_tried(r) for one in tried]) for r in rounds]
    table.add_row("probability of all tried", "", "", "", "", *map(shown_estimate, masses))
    wide.print(table)
    solved = estimate([float(one.is_solved) for one in tried])
    Console().print(
        f"Oracle (the best of those tried, one seed each): {shown_estimate(solved)} of {len(tried)} tasks solved"
    )
